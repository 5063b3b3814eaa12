"""What the logs of a server say about its failures."""

import re
from pathlib import Path

GATEWAY_LOG = "gateway.log"
"""Of a gateway in the background. A start, which clears TorchServe's own logs away, leaves it alone."""
LAST_LOGS = "last"
"""Folder with the logs of the front end before this one, where one died and was brought back."""
_JAVA_SAYS_ANYWAY = (
    "Error: Could not create the Java Virtual Machine.",
    "Error: A fatal exception has occurred. Program will exit.",
)
"""Its last words, whatever it died of."""


def last_line(path: Path) -> str:
    """The last non-empty line of a log, but for those that Java writes whatever it died of."""
    lines = [line for line in map(str.strip, _text(path).splitlines()) if line and line not in _JAVA_SAYS_ANYWAY]
    return lines[-1] if lines else "no output"


def find_refusal(log: Path, name: str, start: int = 0) -> str | None:
    """The reason that the handler gave for not serving ``name``, from the worker's log.

    Args:
        log: ``model_log.log``.
        name: the model's name.
        start: offset in bytes; what comes before it is about other models.
    """
    matches = re.findall(r"RuntimeError: (.+)", _text(log, start))
    # The worker repeats the error as "500 - Unknown exception" when it gives up.
    reasons = [line for line in matches if not re.match(r"\d{3} - ", line)]
    refusals = [line for line in reasons if line.startswith(f"{name} is not served")] or reasons
    return str(refusals[0]) if refusals else None


def last_trace(log: Path, start: int = 0) -> str:
    """The last line of the last stack trace in a worker's log, which names the error; else the log's last line."""
    lines = [_message(line) for line in _text(log, start).splitlines() if line.strip()]
    traces = [i for i, (_, text) in enumerate(lines) if text.startswith("Traceback (most recent call last)")]
    if not traces:
        return lines[-1][1].strip() if lines else "it said nothing"
    source = lines[traces[-1]][0]
    for thread, text in lines[traces[-1] + 1 :]:
        if thread == source and text.strip() and not text.startswith(" "):
            return text.strip()
    return lines[-1][1].strip()


def load_failure(log: Path, name: str) -> str:
    """Why the front end did not load a model, from ``ts_log.log``."""
    lines = _text(log).splitlines()
    failures = [i for i, line in enumerate(lines) if "Failed to load model" in line]
    if not failures:
        return "the server does not know it"
    trace = lines[failures[-1] + 1 :]
    causes = [line.strip() for line in trace if re.match(r"(Caused by: )?[\w.$]+(Exception|Error)", line)]
    own = [line for line in causes if line.startswith("Caused by: ")] or causes
    return own[-1].removeprefix("Caused by: ") if own else _message(lines[failures[-1]])[1]


def _text(path: Path, start: int = 0) -> str:
    return path.read_bytes()[start:].decode("utf-8", "replace") if path.is_file() else ""


def _message(line: str) -> tuple[str, str]:
    """(thread, text) of a line of ``model_log.log``."""
    found = re.match(r"\S+ \[\w+ *\] (\S+)(?: \w+)? - (.*)", line)
    return (found[1], found[2]) if found else ("", line)
