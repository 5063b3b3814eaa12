"""What ``marquee predict`` is asked to send: files, folders, patterns, lists of files, standard input."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marquee.serving.answers import Answer

IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl", ".mpo"),
        *(".png", ".tif", ".tiff", ".webp"),
    )
)
"""Names of the files that are sent of a folder; whether they can be used is the server's to say."""
STANDARD_INPUT = "-"
_NOT_OF_A_LIST = re.compile(rb"[\x01-\x08\x0e-\x1f]")
_OF_A_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One body to send."""

    name: str
    """For the lines about it."""
    path: Path = Path()
    content: bytes | None = None
    """What was read already; None: ``path`` is read when its turn comes."""
    problem: str | None = None
    """Why there is nothing to send."""

    @property
    def content_type(self) -> str:
        """Of the body, by the file's name."""
        is_json = self.path.suffix.lower() == ".json"
        return "application/json" if is_json else "application/octet-stream"

    def read(self) -> "bytes | Answer":
        """The body, or the answer that says why it cannot be read."""
        problem = self.problem
        if problem is None:
            try:
                return self.path.read_bytes() if self.content is None else self.content
            except OSError as error:
                problem = error.strerror or str(error)
        from marquee.serving.answers import Answer

        return Answer(0, {"error": {"code": "unreadable", "message": problem}})


@dataclass
class Sources:
    """All bodies to send, in their order."""

    all: list[Source] = field(default_factory=list)
    left_out: int = 0
    """Files of folders that are not named as images are."""


def find_sources(arguments: Iterable[Path]) -> Sources:
    """Looks up what the command line names.

    A name that exists is meant as it is. Otherwise ``-`` is standard input: an image, JSON, or a list of files;
    ``@FILE`` is a list of files, and ``*``, ``?``, ``[...]`` and ``**`` make a pattern. Of a folder all images are
    sent, those of its subfolders too, without hidden files.
    """
    sources = Sources()
    for argument in arguments:
        text = str(argument)
        if text == STANDARD_INPUT:
            _add_standard_input(sources)
        elif argument.is_dir():
            _add_folder(sources, argument)
        elif argument.exists():
            sources.all.append(_file(text))
        elif text.startswith("@"):
            _add_list(sources, text)
        elif _OF_A_PATTERN.search(text):
            _add_pattern(sources, text)
        else:
            sources.all.append(_file(text))
    return sources


def _file(name: str) -> Source:
    return Source(name=name, path=Path(name))


def _add_standard_input(sources: Sources) -> None:
    data = sys.stdin.buffer.read()
    if _is_body(data):
        suffix = ".json" if data.lstrip()[:1] in (b"{", b"[") else ""
        sources.all.append(Source(name=STANDARD_INPUT, path=Path(f"{STANDARD_INPUT}{suffix}"), content=data))
    else:
        _add_lines(sources, STANDARD_INPUT, data)


def _is_body(data: bytes) -> bool:
    """Whether standard input is what to send, and not a list of files."""
    from marquee.handlers.inputs.image.containers import foreign, format_of

    is_known = format_of(data) is not None or foreign(data) is not None
    return is_known or data.lstrip()[:1] in (b"{", b"[") or _NOT_OF_A_LIST.search(data) is not None


def _add_list(sources: Sources, argument: str) -> None:
    name = argument.removeprefix("@")
    try:
        data = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).expanduser().read_bytes()
    except OSError as error:
        sources.all.append(Source(name=argument, problem=f"the list {name}: {error.strerror or error}"))
        return
    _add_lines(sources, argument, data)


def _add_lines(sources: Sources, name: str, data: bytes) -> None:
    """Adds the files of a list: a path on each line, or separated by NUL as ``find -print0`` does."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0" if b"\0" in data else b"\n")
    files = [_file(os.fsdecode(line.rstrip(b"\r\n"))) for line in lines if line.strip()]
    sources.all += files or [Source(name=name, problem="a list without files")]


def _add_pattern(sources: Sources, pattern: str) -> None:
    # In quotes, the shell replaces no ~. Path.glob takes no pattern that begins at the root.
    found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))  # noqa: PTH111, PTH207
    if not found:
        sources.all.append(Source(name=pattern, problem="no file matches this pattern"))
    # The files of a folder that ** matches are matched on their own.
    for path in map(Path, found):
        if not path.is_dir():
            sources.all.append(_file(str(path)))
        elif "**" not in pattern:
            _add_folder(sources, path)


def _add_folder(sources: Sources, folder: Path) -> None:
    images = 0
    for path in _files_below(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            sources.all.append(_file(str(path)))
            images += 1
        else:
            sources.left_out += 1
    if not images:
        sources.all.append(Source(name=str(folder), problem="a folder without images"))


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file that is not hidden, sorted; a link to a folder is followed where it does not lead back."""
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))
