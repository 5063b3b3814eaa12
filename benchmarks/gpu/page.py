"""The result of a run as a page for people."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.gpu.step import Row

_NO_GPU = (
    "**This run was with `--device cpu`: nothing on this page is about a GPU.** It shows that the steps work; their "
    "sizes are small, and their speeds mean nothing."
)
_MARKS = {True: "yes", False: "**no**", None: ""}


def render(result: dict[str, Any]) -> str:
    """Markdown of a result, finished or not, see :mod:`benchmarks.gpu.driver`."""
    parts = [
        f"# GPU pack: {_device(result)}",
        *([_NO_GPU] if result["device"] == "cpu" else []),
        *(["The run was interrupted; the steps after that are missing."] if result["interrupted"] else []),
        _origin(result),
        _summary(result["steps"]),
        *(_step(step) for step in result["steps"] if step["rows"]),
        _packages(result["machine"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def row_line(row: Row) -> str:
    """A row as one line of text."""
    told = [row["name"], _value(row), row["note"], f"wanted: {row['wanted']}" if row["wanted"] else ""]
    return f"{'WRONG ' if row['right'] is False else ''}{'  '.join(part for part in told if part)}"


def _device(result: dict[str, Any]) -> str:
    names = [gpu["name"] for gpu in result["machine"].get("gpus", [])]
    if result["device"] == "cpu" or not names:
        return "the CPU" if result["device"] == "cpu" else "CUDA"
    return names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"


def _origin(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [f"`{result['command']}`, {result['date']}, commit {result['commit']}."]
    if "error" in machine:
        lines.append(f"The machine could not be described: {machine['error']}.")
    elif machine:
        lines.append(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; {machine['platform']}.")
        lines.append(f"Python {machine['python']}, PyTorch {machine['torch']}; /dev/shm: {_shared(machine)}.")
        lines += [
            f"GPU {number}: {gpu['name']}, compute capability {gpu['capability']}, {gpu['memory_gb']} GB, "
            f"{gpu['multiprocessors']} multiprocessors."
            for number, gpu in enumerate(machine["gpus"])
        ]
        versions = [f"{name} {machine[name]}" for name in ("driver", "cuda", "cudnn", "nccl") if machine.get(name)]
        lines += [f"Versions: {', '.join(versions)}."] if versions else []
    return "  \n".join(lines)


def _shared(machine: dict[str, Any]) -> str:
    size = machine.get("shared_memory_gb")
    return "none" if size is None else f"{size:.3g} GB"


def _summary(steps: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            step["name"],
            step["title"],
            f"{step['status']}: {step['reason']}" if step.get("reason") else step["status"],
            f"{step['seconds']:.0f} s",
            str(sum(row["right"] is True for row in step["rows"])),
            _bold(sum(row["right"] is False for row in step["rows"])),
        )
        for step in steps
    ]
    return _table(("Step", "What", "Status", "Time", "Right", "Wrong"), rows)


def _step(step: dict[str, Any]) -> str:
    rows = [(row["name"], _value(row), _MARKS[row["right"]], row["wanted"], row["note"]) for row in step["rows"]]
    return f"## {step['title']}\n\n" + _table(("What", "Value", "Right", "Wanted", "Note"), rows)


def _packages(machine: dict[str, Any]) -> str:
    if not machine.get("packages"):
        return ""
    there = [f"{name} {version}" for name, version in machine["packages"].items() if version]
    absent = [name for name, version in machine["packages"].items() if not version]
    absent += [name for name, found in machine["programs"].items() if not found]
    return f"## Packages and programs\n\nPresent: {', '.join(there)}.\n\nAbsent: {', '.join(absent) or 'none'}."


def _value(row: Row) -> str:
    value = row["value"]
    if row["kind"] == "error":
        return "error"
    if value is None:
        return ""
    text = _number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return f"{text} {row['unit']}".strip()


def _number(value: float) -> str:
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _bold(count: int) -> str:
    return f"**{count}**" if count else "0"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
