"""Formats the measurements of all variants as a text table."""

from typing import Any

from marquee.training.core.task import Task, task_for
from marquee.training.optimize.optimize import Optimized

_SHORT = {"images": "img"}


def headings(task: Task[Any]) -> tuple[str, ...]:
    """Headings of the columns."""
    first, *others = map(str, task.batch_sizes)
    speeds = (f"{_SHORT.get(task.unit, task.unit)}/s {first}", *others)
    quality = (task.quality.name, "loses (95 %)", "agrees")
    return ("variant", *quality, "p50 ms", "p99 ms", *speeds, "load s", "MB", "file MB")


def table(result: Optimized) -> str:
    """One line per variant in the order of the bundle, the chosen one marked; then the refused and left-out ones."""
    rows: list[tuple[str, ...]] = [headings(task_for(result.spec))]
    for variant in result.spec.variants:
        if not variant.measurements:
            continue
        measurement = variant.measurements[-1]
        mark = "*" if variant.name == result.chosen else " "
        interval = "-" if measurement.drop_interval is None else "{:+.2%} to {:+.2%}".format(*measurement.drop_interval)
        rows.append(
            (
                f"{mark} {variant.name}",
                "-" if measurement.accuracy is None else f"{measurement.accuracy:.2%}",
                interval,
                f"{measurement.agreement:.2%}",
                _milliseconds(measurement.latency_p50_ms),
                _milliseconds(measurement.latency_p99_ms),
                *(f"{speed:.0f}" for speed in measurement.images_per_second.values()),
                f"{measurement.load_seconds:.1f}",
                f"{measurement.memory_bytes / 1e6:.0f}",
                f"{measurement.file_bytes / 1e6:.1f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row[i], widths[i], i) for i in range(len(row))).rstrip() for row in rows]
    task = task_for(result.spec)
    if any(variant.measurements and variant.measurements[-1].accuracy is not None for variant in result.spec.variants):
        lines.append(f"{task.quality.name} and agreement: on {result.judged}")
    lines += [f"{name} {line}" for name, line in result.losses.items()]
    lines += [f"not served: {name}: {reason}" for name, reason in result.refused.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in result.left_out.items()]
    lines += [f"{name}: {note}" for name, note in result.notes.items()]
    lines += [f"warning: {result.order.warning}"] if result.order.warning else []
    return "\n".join(lines)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
