"""Where a data set and what is made of it may lie."""

from pathlib import Path

from marquee.training.core.errors import TrainingError


def check_apart(data: Path, out: Path) -> None:
    """Raises TrainingError if a data set's folder and the folder of a run lie in each other, also through links.

    Later runs would take the run's folder for a part of the data set.
    """
    if not data.is_dir():
        return
    inner, outer = out.resolve(), data.resolve()
    apart = f"choose an --out outside of it, such as {data.absolute().parent / 'runs' / (out.name or 'run')}"
    if inner == outer:
        raise TrainingError(f"--out {out}: is the folder of the data set; {apart}")
    if outer in inner.parents:
        raise TrainingError(
            f"--out {out}: lies in the data set, {data}, of which it would be taken for a part; {apart}"
        )
    if inner in outer.parents:
        raise TrainingError(f"--out {out}: the data set, {data}, lies in it; choose an --out beside the data set")
