"""The result of tuning as text and as JSON."""

from typing import Any

from marquee.serving.tuning.result import Measured, frontier
from marquee.serving.tuning.space import Params
from marquee.serving.tuning.tune import TuningResult


def table(result: TuningResult) -> str:
    """All settings that were tried, the final, and the frontier."""
    search = result.search
    names = list(search.start.point.to_dict())
    marks = {search.best.point: "*"}
    head = f"  {'variant':<16}" + "".join(f"{name:>9}" for name in names[1:]) + _HEAD
    lines = [head, *(_row(measured, marks) for measured in search.swept)]
    if search.finals:
        lines += ["final, in turn; medians of the rounds", *(_row(measured, marks) for measured in search.finals)]
    on_frontier = frontier(_latest(result))
    lines += ["frontier, throughput against p99", *(_row(measured, marks) for measured in on_frontier)]
    lines += [f"left out: {name}: {reason}" for name, reason in result.left_out.items()]
    if not search.complete:
        lines.append("time ran out before the search was complete; more --minutes may find better settings")
    return "\n".join(lines)


_HEAD = f"{'answers/s':>11}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"


def _latest(result: TuningResult) -> list[Measured]:
    """Every point once, as the final measured it where it took part."""
    finals = {measured.point: measured for measured in result.search.finals}
    return [finals.get(measured.point, measured) for measured in result.search.swept]


def _row(measured: Measured, marks: dict[Params, str]) -> str:
    first, *rest = measured.point.to_dict().values()
    row = f"{marks.get(measured.point, ' ')} {first:<16}" + "".join(f"{value:>9}" for value in rest)
    if measured.failure:
        return f"{row}  {measured.failure}"
    figures = (measured.throughput, measured.p50_ms, measured.p95_ms, measured.p99_ms)
    return row + f"{figures[0]:>11.1f}" + "".join(f"{figure:>9.1f}" for figure in figures[1:])


def summary(result: TuningResult) -> list[str]:
    """The chosen settings, compared with those before and with the in-process limit."""
    best, start = result.search.best, result.search.start
    lines = [f"chosen: {best.point}: {best.throughput:.1f} answers/s, p99 {best.p99_ms:.1f} ms"]
    if best.point != start.point and start.failure is None:
        lines.append(
            f"before: {start.point}: {start.throughput:.1f} answers/s, p99 {start.p99_ms:.1f} ms; "
            f"now {best.throughput / start.throughput:.2f} times"
        )
    if result.search.reason:
        lines.append(f"why: {result.search.reason}")
    if result.search.warning:
        lines.append(f"warning: {result.search.warning}")
    if result.share is not None:
        limit = max(limit for _, limit in result.in_process)
        lines.append(f"in process, without a server, up to {limit:.1f} images/s; served: {result.share:.0%} of that")
    return lines


def refusal(result: TuningResult) -> str:
    """Why nothing was chosen."""
    search, best = result.search, result.search.best
    if best.failure is not None:
        return f"{result.archive}: cannot be served: {best.failure}"
    served = [measured for measured in (*search.swept, *search.finals) if measured.failure is None]
    lowest = min(served, key=lambda measured: measured.p99_ms)
    return (
        f"{result.archive}: no settings answer 99 % of the requests within {result.goal.p99_ms:g} ms; the lowest p99 "
        f"seen is {lowest.p99_ms:.1f} ms ({lowest.point}); raise --p99-ms, lower --clients, or add a faster variant "
        "with marquee optimize; nothing was written"
    )


def to_document(result: TuningResult) -> dict[str, Any]:
    """One JSON object."""
    search = result.search
    return {
        "archive": str(result.archive),
        "met": result.met,
        "chosen": _entry(search.best),
        "before": _entry(search.start),
        "changes": result.changes,
        "written": result.written,
        "share_of_in_process": result.share,
        "in_process": [{"served": served, "alone": limit} for served, limit in result.in_process],
        "complete": search.complete,
        "reason": search.reason or None,
        "warning": search.warning or None,
        "swept": [_entry(measured) for measured in search.swept],
        "finals": [_entry(measured) for measured in search.finals],
        "frontier": [_entry(measured) for measured in frontier(_latest(result))],
        "left_out": result.left_out,
        **({} if result.met else {"error": refusal(result)}),
    }


def _entry(measured: Measured) -> dict[str, Any]:
    if measured.failure:
        return {**measured.point.to_dict(), "failure": measured.failure}
    return {
        **measured.point.to_dict(),
        "answers_per_second": round(measured.throughput, 2),
        "p50_ms": round(measured.p50_ms, 2),
        "p95_ms": round(measured.p95_ms, 2),
        "p99_ms": round(measured.p99_ms, 2),
        "slices": len(measured.slices),
    }
