"""Java's properties format: what ``java.util.Properties`` reads, and the same as text that it reads again."""

import re
from collections.abc import Iterator, Mapping

_WHITE = " \t\f"
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def parse(text: str) -> dict[str, str]:
    r"""The keys and values of a properties file; the last of equal keys wins.

    As in Java, ``key=value``, ``key: value`` and ``key value`` are the same, a backslash at the end of a line continues
    it, and ``\:`` is a colon. Unlike Java, white space at the end of a value is dropped, because nobody sees it.

    Raises:
        ValueError: a ``\u`` without four hexadecimal digits.
    """
    return dict(map(_pair, _logical_lines(text)))


def render(values: Mapping[str, str]) -> str:
    """Lines of plain ASCII from which Java, and :func:`parse`, read ``values``."""
    return "".join(f"{_escape(key, ' =:#!')}={_escape(value)}\n" for key, value in values.items())


def _logical_lines(text: str) -> Iterator[str]:
    lines = iter(re.split(r"\r\n|\r|\n", text))
    for line in lines:
        whole = line.lstrip(_WHITE)
        if not whole or whole[0] in "#!":
            continue
        while _is_continued(whole):
            whole = whole[:-1] + next(lines, "").lstrip(_WHITE)
        yield whole


def _is_continued(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _pair(line: str) -> tuple[str, str]:
    found = re.match(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
    key, value = found.groups() if found else (line, "")
    # Only white space that is written as such: an escaped one is meant.
    bare = re.fullmatch(r"((?:\\.|[^\\])*?)[ \t\f]*", value, re.DOTALL)
    return _unescape(key), _unescape(bare[1] if bare else value)


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1] is not None:
            return chr(int(match[1], 16))
        if match[2] == "u":
            raise ValueError(f"{text!r}: \\u without four hexadecimal digits")
        return _LETTERS.get(match[2], match[2])

    replaced = re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", replace, text, flags=re.DOTALL)
    return replaced.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(text: str, special: str = "") -> str:
    def replace(match: re.Match[str]) -> str:
        character = match[0]
        if character in special or character in "\\ ":
            return f"\\{character}"
        # Java's characters are UTF-16 units.
        units = character.encode("utf-16-be")
        return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

    pattern = rf"[\\{re.escape(special)}]|^ | $|[^ -~]"
    return re.sub(pattern, replace, text)
