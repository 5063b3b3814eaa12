"""Images a second of training, loader included, beside a plain torchvision-style loop and timm's own step.

The same network, photographs, batch, cores and kinds of augmentation for all. Rounds are interleaved: every contender
once, then every contender again, each in a process of its own, one at a time. The first epoch of each warms up.

Example: python -m benchmarks.training.throughput --rounds 5

Writes RESULTS/throughput.json after each round; then run: python -m benchmarks.render
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from benchmarks import WORK, main, tell
from benchmarks.photographs import SIZE, write_photographs
from benchmarks.results import Series, Values, add, origin, write_result
from benchmarks.training.runs import NO_AUGMENTATION, RESULTS, Loop, flags, read_epochs, run_json, train, warm_values
from marquee.training.core.errors import TrainingError

BASELINE = "torchvision-style fp32"
_BF16: dict[str, object] = {"loop.precision": "bf16", "loop.channels_last": True}
_NO_CACHE = {"loop.cache": "none"}
_CACHED = {**_BF16, "loop.cache": "decoded"}
# Half of them have small images, three grow, two are whole.
_PROGRESSIVE = {"loop.progressive_resizing": 0.5, "loop.epochs": 10}
# Augmentation of the other contenders: random resized crop and flip.
_SAME_AUGMENTATION = {**NO_AUGMENTATION, "augment.crop_scale": 0.08, "augment.horizontal_flip": 0.5}


@dataclass(frozen=True, kw_only=True)
class Throughput(Loop):
    """Arguments; of several epochs all but the first are measured."""

    images: int = 256
    """Photographs in an epoch."""
    rounds: int = 5
    """How often every contender runs."""
    contenders: tuple[str, ...] = ()
    """Names, as the table shows them; none: all."""
    work: Path = WORK
    """Folder for photographs and runs."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        # The first epoch warms up, and an epoch fills at least one batch.
        for name, least in (("rounds", 1), ("epochs", 2), ("images", self.batch_size)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    def shared(self) -> dict[str, object]:
        """What the other loops are told."""
        return {one.name: getattr(self, one.name) for one in fields(Loop)}


def module(name: str, *switches: str) -> Callable[[Throughput, Path], Values]:
    """A contender that is a module beside this one."""

    def run(settings: Throughput, photos: Path) -> Values:
        arguments = [f"benchmarks.training.{name}", "--data", str(photos), *flags(settings.shared()), *switches]
        return warm_values(run_json(arguments)["epochs"])

    return run


def marquee(own: dict[str, object], settings: Throughput, photos: Path) -> Values:
    """This project, by its own command."""
    out = settings.work.absolute() / "throughput"
    shutil.rmtree(out, ignore_errors=True)
    shared = {
        "model.arch": settings.arch,
        "image.size": settings.size,
        "loop.batch_size": settings.batch_size,
        "loop.workers": settings.workers,
        "loop.epochs": settings.epochs,
        "loop.patience": 0,
        "loop.device": "cpu",
    }
    train(photos, out, flags({**shared, **_SAME_AUGMENTATION, **own}))
    first, *others = read_epochs(out)
    # Of a run of growing images the first epoch counts, too: as the second, for it warms up.
    return warm_values([first, others[0], *others] if "loop.progressive_resizing" in own else [first, *others])


CONTENDERS: dict[str, Callable[[Throughput, Path], Values]] = {
    BASELINE: module("plain"),
    "timm fp32": module("with_timm"),
    "timm bf16 channels_last": module("with_timm", "--amp", "--channels-last"),
    "marquee fp32": partial(marquee, {"loop.precision": "fp32", **_NO_CACHE}),
    "marquee bf16": partial(marquee, {**_BF16, **_NO_CACHE}),
    "marquee bf16 compile": partial(marquee, {**_BF16, **_NO_CACHE, "loop.compile": True}),
    "marquee bf16 cache": partial(marquee, _CACHED),
    "marquee bf16 cache compile": partial(marquee, {**_CACHED, "loop.compile": True}),
    "marquee bf16 cache progressive": partial(marquee, {**_CACHED, **_PROGRESSIVE}),
}
"""In the order of a round."""


def measure(settings: Throughput) -> Path:
    """Runs all rounds and returns the result file.

    Raises:
        TrainingError: a contender is unknown or failed.
    """
    chosen = settings.contenders or tuple(CONTENDERS)
    if unknown := [name for name in chosen if name not in CONTENDERS]:
        raise TrainingError(f"contender {unknown[0]!r}: unknown; one of {', '.join(CONTENDERS)}")
    source, series = origin("throughput"), Series()
    photos = settings.work.absolute() / f"photos-{settings.images}"
    write_photographs(photos / "train", SIZE, settings.images, by_class=True)
    write_photographs(photos / "val", SIZE, 64, seed=1, by_class=True)
    for number in range(1, settings.rounds + 1):
        for name in chosen:
            values = CONTENDERS[name](settings, photos)
            add(series, name, values)
            told = ", ".join(f"{metric} {value:.3g}" for metric, value in values.items())
            tell(f"round {number}/{settings.rounds}  {name:28s} {told}")
        # After every round: what an interruption leaves is a result of fewer rounds.
        path = write_result(settings.results, source, settings.shared() | {"images": settings.images}, series, BASELINE)
    return path


if __name__ == "__main__":
    main(measure, Throughput, __doc__)
