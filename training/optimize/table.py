"""The measurements of all variants as text."""

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
    """One line a variant, in the order of the bundle, the chosen one marked; then what was refused and left out."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for variant in result.spec.variants:
        if not variant.measurements:
            continue
        one = variant.measurements[-1]
        mark = "*" if variant.name == result.chosen else " "
        interval = "-" if one.drop_interval is None else "{:+.2%} to {:+.2%}".format(*one.drop_interval)
        rows.append(
            (
                f"{mark} {variant.name}",
                "-" if one.accuracy is None else f"{one.accuracy:.2%}",
                interval,
                f"{one.agreement:.2%}",
                f"{one.latency_p50_ms:.2f}",
                f"{one.latency_p99_ms:.2f}",
                *(f"{speed:.0f}" for speed in one.images_per_second.values()),
                f"{one.load_seconds:.1f}",
                f"{one.memory_bytes / 1e6:.0f}",
                f"{one.file_bytes / 1e6:.1f}",
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
