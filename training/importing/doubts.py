"""Doubts about an imported model whose answers to labelled images are wrong, and the setting that would mend them."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.progress import Progress
from marquee.training.importing.ready import ReadyModel
from marquee.training.importing.settings import Order, Setting
from marquee.training.tasks.image_classification.data.manifest import Record

_TRIED = 60
"""Images on which other settings are tried."""
_BATCH = 8
_GOOD = 0.9
"""Share of right answers from which no other setting is looked for."""
_REMEDY = 0.5
"""Share of right answers below which another setting is no remedy: the images of a class change their answers together,
which looks like more evidence than it is."""
_FEWEST = 3
"""Equal answers to fewer images are no sign of a fault."""
_CHANCE, _STRICT = 0.05, 0.01
"""The probability that a setting looks better by chance only: where answers are no better than guessing, and else."""
_CAUSES = (
    "pixels that are scaled twice or not at all (--input-range, --mean, --std), BGR (--channel-order), images that are "
    "squashed instead of cropped or the other way round (--fit), labels in another order (--labels), or images that "
    "are not of the model's classes"
)


class Doubts:
    """What is suspicious in the answers of a model, in lines for the one who imports it.

    Args:
        ready: the model.
        order: order of its channels, as given.
        labels: its labels, as given.
        records: the images that it answered.
        answers: the label that it gave to each.
    """

    def __init__(
        self, ready: ReadyModel, order: Order, labels: Sequence[str], records: Sequence[Record], answers: Sequence[str]
    ) -> None:
        self.ready, self.order, self.labels, self.answers = ready, order, list(labels), list(answers)
        known = [(record, answer) for record, answer in zip(records, answers, strict=True) if record.label]
        self.right, self.known = sum(record.label == answer for record, answer in known), len(known)
        chosen = known if len(known) <= _TRIED else [known[i * len(known) // _TRIED] for i in range(_TRIED)]
        self.tried = [record for record, _ in chosen]
        self.truths = np.array([self.labels.index(record.label) for record in self.tried])
        self.outputs = np.array([self.labels.index(answer) for _, answer in chosen])

    def lines(self, progress: Progress) -> list[str]:
        """The warnings; none for a model whose answers are right."""
        symptom = self._symptom()
        if self.known == 0 or self.right >= _GOOD * self.known:
            return [f"{symptom}; likely causes: {_CAUSES}; images in class folders would tell which"] if symptom else []
        chance = _CHANCE if symptom else _STRICT
        # Both may explain it: in classes of colours, red and blue exchanged look like two labels exchanged.
        found = [one for one in (self._other_setting(chance, progress), self._other_labels(chance)) if one is not None]
        if found:
            return [f"{symptom or self._count()}; {'; or, '.join(found)}"]
        if symptom is None:
            return []
        return [f"{symptom}, and no common setting gives clearly more right answers; likely causes: {_CAUSES}"]

    def _count(self) -> str:
        return f"{self.right} of {self.known} labelled images get the label of their folder"

    def _symptom(self) -> str | None:
        """What no working model does."""
        if len(self.answers) >= _FEWEST and len(set(self.answers)) == 1 and (self.right < self.known or not self.known):
            return f"all {len(self.answers)} images get the label {self.answers[0]!r}"
        guessed = self.known / len(self.labels)
        if self.right < guessed or (self.right == guessed and self.known >= _BATCH):
            how = "fewer than" if self.right < guessed else "as many as"
            return f"{self._count()}, {how} by guessing ({guessed:.2g})"
        return None

    def _other_setting(self, chance: float, progress: Progress) -> str | None:
        """The way to prepare images that gives the most right answers, if they are clearly more than now."""
        now = self.outputs == self.truths
        start = Setting(self.ready.image, self.order)
        best, hits = self._best([*start.colours(), *start.fits()], start, now, chance, progress)
        if best is not start:
            # A second difference is part of the advice only if it adds to the first.
            more = best.colours() if best.image.fit != start.image.fit else best.fits()
            best, hits = self._best(list(more), best, hits, chance, progress)
        if hits.mean() < _REMEDY or not _clearly_more(hits, now, chance):
            return None
        return (
            f"with {' '.join(best.options)} {hits.sum()} of {len(hits)} would be right: {' and '.join(best.causes)}; "
            "import again with these options if that is so"
        )

    def _best(
        self, settings: Sequence[Setting], best: Setting, hits: np.ndarray, chance: float, progress: Progress
    ) -> tuple[Setting, np.ndarray]:
        """The setting with the most right answers, and which these are; ``best`` where none has clearly more."""
        before = hits
        with progress.task(f"trying other settings on {len(self.tried)} images", len(settings)) as task:
            for setting in settings:
                these = self._hits(setting)
                task.advance()
                if these.sum() > hits.sum() and _clearly_more(these, before, chance):
                    best, hits = setting, these
        return best, hits

    def _hits(self, setting: Setting) -> np.ndarray:
        """Which of the tried images would be right."""
        image, step = self.ready.image, -1 if self.order == "bgr" else 1
        mean, std = image.mean, image.std
        if setting.normalisation is not None:
            mean, std = (values[::step] for values in setting.normalisation.per_channel(image.channels))
        run = self.ready.normalised(mean, std)
        pixels = self._pixels(setting.image)
        if setting.order != self.order:
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        logits = [run(pixels[at : at + _BATCH]) for at in range(0, len(pixels), _BATCH)]
        right: np.ndarray = np.concatenate(logits).argmax(axis=1) == self.truths
        return right

    def _pixels(self, image: ImageSpec) -> np.ndarray:
        return np.stack([load(Path(record.path).read_bytes(), image) for record in self.tried])

    def _other_labels(self, chance: float) -> str | None:
        """The order of the labels that gives the most right answers, if they are clearly more than now."""
        now, count = self.outputs == self.truths, len(self.truths)
        best, hits = "", now
        for name, order in self._orders():
            renamed = np.array([self.labels.index(label) for label in order])
            these = renamed[self.outputs] == self.truths
            if these.sum() > hits.sum():
                best, hits = name, these
        if not best or not _clearly_more(hits, now, chance) or hits.sum() < _GOOD * count:
            return self._exchanged()
        return (
            f"with the labels {best} {hits.sum()} of {count} would be right: --labels is in another order than the "
            "model's outputs"
        )

    def _orders(self) -> Iterator[tuple[str, list[str]]]:
        def natural(label: str) -> list[tuple[int, str]]:
            return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", label)]

        yield "in alphabetical order", sorted(self.labels)
        yield "in alphabetical order without regard to capitals", sorted(self.labels, key=str.casefold)
        yield "in the order of their numbers", sorted(self.labels, key=natural)
        yield "in reverse", self.labels[::-1]
        yield "moved by one (as without a background class)", [*self.labels[1:], self.labels[0]]
        yield "moved by one (as with a background class first)", [self.labels[-1], *self.labels[:-1]]

    def _exchanged(self) -> str | None:
        """Classes whose images nearly all get the label of another class each."""
        groups: dict[int, list[int]] = defaultdict(list)
        for truth, output in zip(self.truths.tolist(), self.outputs.tolist(), strict=True):
            groups[truth].append(output)
        usual = {truth: Counter(outputs).most_common(1)[0] for truth, outputs in groups.items()}
        hits = sum(count for _, count in usual.values())
        # Which class gets which label is chosen on these images: there have to be several of each.
        several = len(groups) > 1 and len(self.truths) >= 3 * len(groups)
        distinct = len({output for output, _ in usual.values()}) == len(usual)
        if not several or not distinct or hits < _GOOD * len(self.truths):
            return None
        named = [
            f"{self.labels[output]!r} for images of {self.labels[truth]!r}"
            for truth, (output, _) in usual.items()
            if output != truth
        ]
        return (
            f"with the labels in another order {hits} of {len(self.truths)} would be right: the model answers "
            f"{', '.join(named[:3])}; put --labels into the order of its outputs"
        )


def _clearly_more(right: np.ndarray, than: np.ndarray, chance: float) -> bool:
    """Whether more are right by more than chance, by the exact sign test of those that differ."""
    gained, lost = int((right & ~than).sum()), int((than & ~right).sum())
    differing = gained + lost
    tail = sum(math.comb(differing, k) for k in range(gained, differing + 1)) / 2**differing
    return gained > lost and tail <= chance
