"""Tuning's result for people and for programs."""

from typing import Any

from marquee.serving.tuning.result import Measured, frontier
from marquee.serving.tuning.space import Point
from marquee.serving.tuning.tune import Tuned


def table(tuned: Tuned) -> str:
    """Every setting that was tried, the final, and the frontier."""
    found = tuned.found
    names = list(found.start.point.to_dict())
    marks = {found.best.point: "*"}
    head = f"  {'variant':<16}" + "".join(f"{name:>9}" for name in names[1:]) + _HEAD
    lines = [head, *(_row(one, marks) for one in found.swept)]
    if found.finals:
        lines += ["final, in turn; medians of the rounds", *(_row(one, marks) for one in found.finals)]
    on_frontier = frontier(_latest(tuned))
    lines += ["frontier, throughput against p99", *(_row(one, marks) for one in on_frontier)]
    lines += [f"left out: {name}: {reason}" for name, reason in tuned.left_out.items()]
    if not found.complete:
        lines.append("the time ended before the search did; more --minutes may find better settings")
    return "\n".join(lines)


_HEAD = f"{'answers/s':>11}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"


def _latest(tuned: Tuned) -> list[Measured]:
    """Every point once, as the final measured it where it took part."""
    finals = {one.point: one for one in tuned.found.finals}
    return [finals.get(one.point, one) for one in tuned.found.swept]


def _row(measured: Measured, marks: dict[Point, str]) -> str:
    first, *rest = measured.point.to_dict().values()
    row = f"{marks.get(measured.point, ' ')} {first:<16}" + "".join(f"{value:>9}" for value in rest)
    if measured.failure:
        return f"{row}  {measured.failure}"
    figures = (measured.throughput, measured.p50_ms, measured.p95_ms, measured.p99_ms)
    return row + f"{figures[0]:>11.1f}" + "".join(f"{figure:>9.1f}" for figure in figures[1:])


def summary(tuned: Tuned) -> list[str]:
    """What was chosen, and what it is worth."""
    best, start = tuned.found.best, tuned.found.start
    lines = [f"chosen: {best.point}: {best.throughput:.1f} answers/s, p99 {best.p99_ms:.1f} ms"]
    if best.point != start.point and start.failure is None:
        lines.append(
            f"before: {start.point}: {start.throughput:.1f} answers/s, p99 {start.p99_ms:.1f} ms; "
            f"now {best.throughput / start.throughput:.2f} times"
        )
    if tuned.share is not None:
        alone = max(alone for _, alone in tuned.in_process)
        lines.append(f"in process, without a server, up to {alone:.1f} images/s; served: {tuned.share:.0%} of that")
    return lines


def refusal(tuned: Tuned) -> str:
    """Why nothing was chosen."""
    found, best = tuned.found, tuned.found.best
    if best.failure is not None:
        return f"{tuned.archive}: cannot be served: {best.failure}"
    seen = min((one for one in (*found.swept, *found.finals) if one.failure is None), key=lambda one: one.p99_ms)
    return (
        f"{tuned.archive}: no settings answer 99 % of the requests within {tuned.goal.p99_ms:g} ms; the lowest p99 "
        f"seen is {seen.p99_ms:.1f} ms ({seen.point}); allow more, ask with fewer --clients, or make a faster variant: "
        "marquee optimize; nothing was written"
    )


def to_document(tuned: Tuned) -> dict[str, Any]:
    """One JSON object."""
    found = tuned.found
    return {
        "archive": str(tuned.archive),
        "met": tuned.met,
        "chosen": _entry(found.best),
        "before": _entry(found.start),
        "changes": tuned.changes,
        "written": tuned.written,
        "share_of_in_process": tuned.share,
        "in_process": [{"served": served, "alone": alone} for served, alone in tuned.in_process],
        "complete": found.complete,
        "swept": [_entry(one) for one in found.swept],
        "finals": [_entry(one) for one in found.finals],
        "frontier": [_entry(one) for one in frontier(_latest(tuned))],
        "left_out": tuned.left_out,
        **({} if tuned.met else {"error": refusal(tuned)}),
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
