"""Serve one network by this project and by its peers; measure speed, latency, memory and start, round by round.

Every contender in turn is started, must give the right answers, is warmed, loaded, and stopped; then the next; then all
of them again. Never do two run at once. An interrupted run goes on where it was when started again.

Example: python -m benchmarks.serving.compare --quick

Writes RESULTS/NAME.json after each round; then run: python -m benchmarks.render

Two results have a place on the page: compare, of all contenders, and gateway, of the gateway and what it is compared
with:

python -m benchmarks.serving.compare --name gateway --contenders marquee-int8 marquee-int8-gateway ...
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks import ROOT, WORK, main, tell
from benchmarks.results import Series, add, kept, origin, write_result
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.contenders.marquee import MARQUEE
from benchmarks.serving.contenders.stock import STOCK
from benchmarks.serving.material import make_material, write_weights
from benchmarks.serving.peers.place import EAGER, load_model
from benchmarks.serving.processes import ContenderError
from benchmarks.serving.servers import likeliest
from benchmarks.serving.turn import Plan, Size, as_text, photographs, take_turn
from marquee.training.core.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "serving" / "results"
_PACKAGES = (
    *("torchserve", "openvino", "fastapi", "starlette", "uvicorn", "aiohttp", "litserve", "bentoml", "ray", "flask"),
)
COMPARE = "compare"
_SMALL, _MIDDLE, _LARGE = (500, 375), (1920, 1080), (4032, 3024)
# The larger photographs are asked for by 16 clients only.
FULL = Plan(cells=((_SMALL, 1), (_SMALL, 16), (_SMALL, 64), (_MIDDLE, 16), (_LARGE, 16)), seconds=3, warmup=8)
QUICK = Plan(cells=((_SMALL, 1), (_SMALL, 16), (_LARGE, 16)), seconds=2, warmup=2)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Arguments."""

    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Names; one whose package is not installed is left out, and told."""
    rounds: int = 5
    """How often every contender has its turn."""
    name: str = COMPARE
    """Of the result file; another name leaves the result of all contenders as it is."""
    quick: bool = False
    """A look: 2 rounds, shorter and fewer loads."""
    work: Path = WORK / "serving"
    """Folder for models, photographs, logs and finished turns."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds: expected at least 1, got {self.rounds}")
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"name: expected letters, digits and -, got {self.name!r}")
        if unknown := [name for name in self.contenders if name not in CONTENDERS]:
            raise ValueError(f"contenders: no {unknown[0]!r}; there are {', '.join(CONTENDERS)}")


def choose(names: Sequence[str]) -> list[Contender]:
    """Those that take part.

    Raises:
        TrainingError: nobody is left.
    """
    chosen = []
    for contender in (CONTENDERS[name] for name in names):
        if contender.missing:
            tell(f"LEFT OUT: {contender.name}: not installed: {', '.join(contender.missing)}; {contender.remedy}")
        else:
            chosen.append(contender)
    if not chosen:
        raise TrainingError("no contender is left; install benchmarks/requirements.txt")
    return chosen


def find_labels(reference: str, site: Site, sizes: Sequence[Size]) -> dict[Size, str]:
    """What the model itself, asked in this process, answers for the first photograph of each size."""
    model = load_model(reference, site.material)
    return {size: likeliest(model.answer([photographs(site, size)[0].read_bytes()])) for size in sizes}


def compare(settings: Compare, plan: Plan = FULL) -> Path:
    """Runs all rounds and returns the result file; ``--quick`` has a plan of its own.

    Raises:
        TrainingError: no contender could be measured.
    """
    chosen, site, source = choose(settings.contenders), Site(work=settings.work.absolute()), origin(COMPARE)
    plan, rounds = (QUICK, 2) if settings.quick else (plan, settings.rounds)
    tell("making models and photographs")
    references = {one.reference for one in chosen}
    (write_weights if references == {EAGER} else make_material)(site.material)
    sizes = list(dict.fromkeys(size for size, _ in plan.cells))
    labels = {name: find_labels(name, site, sizes) for name in references}
    for contender in chosen:
        contender.prepare(site)
    cells = [[as_text(size), clients] for size, clients in plan.cells]
    described = {"cells": cells, "seconds": plan.seconds, "warmup": plan.warmup, "versions": _versions(chosen)}
    series, failed, turns = Series(), dict[str, str](), site.work / f"turns-{settings.name}"
    for number in range(1, rounds + 1):
        for contender in [one for one in chosen if one.name not in failed]:
            tell(f"round {number} of {rounds}: {contender.name}")
            turn = partial(take_turn, contender, site, plan, labels[contender.reference])
            try:
                made_of = {**described, "commit": source["commit"]}
                add(series, contender.name, kept(turns / f"{number}-{contender.name}.json", made_of, turn))
            except ContenderError as error:
                tell(f"LEFT OUT: {error}")
                failed[contender.name] = str(error)
                series.pop(contender.name, None)
        if not series:
            raise TrainingError(f"no contender could be measured; the first: {next(iter(failed.values()))}")
        # After every round: what an interruption leaves is a result of fewer rounds.
        baseline = STOCK if STOCK in series else MARQUEE
        told = described | {"left_out": failed}
        path = write_result(settings.results, source, told, series, baseline, settings.name)
    shutil.rmtree(turns)
    return path


def _versions(chosen: Sequence[Contender]) -> dict[str, str]:
    """Of the servers and of what runs in them, as far as installed."""
    installed = {one.name: one.version for one in metadata.distributions()}
    found = {name: installed[name] for name in _PACKAGES if name in installed}
    apart = {one.environment.name: one.environment.version() for one in chosen if one.environment is not None}
    return found | {name: version for name, version in apart.items() if version is not None}


if __name__ == "__main__":
    main(compare, Compare, __doc__)
