"""Formats the measurements of all variants as a text table."""

from marquee.training.optimize.optimize import Optimized

_HEADINGS = (
    "variant",
    "accuracy",
    "loses (95 %)",
    "agrees",
    "p50 ms",
    "p99 ms",
    "img/s 1",
    "8",
    "32",
    "load s",
    "MB",
    "file MB",
)


def table(result: Optimized) -> str:
    """One line per variant in the order of the bundle, the chosen one marked; then the refused and left-out ones."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
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
                f"{measurement.latency_p50_ms:.2f}",
                f"{measurement.latency_p99_ms:.2f}",
                *(f"{speed:.0f}" for speed in measurement.images_per_second.values()),
                f"{measurement.load_seconds:.1f}",
                f"{measurement.memory_bytes / 1e6:.0f}",
                f"{measurement.file_bytes / 1e6:.1f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    lines = ["  ".join(_aligned(row[i], widths[i], i) for i in range(len(row))).rstrip() for row in rows]
    lines += [f"not served: {name}: {reason}" for name, reason in result.refused.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in result.left_out.items()]
    lines += [f"{name}: {note}" for name, note in result.notes.items()]
    return "\n".join(lines)


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
