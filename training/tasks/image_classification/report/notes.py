"""What a run's own records say about its data set: splits that overlap, copies, labels that contradict, losses."""

from marquee.training.tasks.image_classification.advice import smallest_class
from marquee.training.tasks.image_classification.data.copies import (
    CONTRADICTION,
    COPY,
    contradictions,
    copy_lines,
    overlaps,
)
from marquee.training.tasks.image_classification.data.lost import SHOWN, lost_by_class
from marquee.training.tasks.image_classification.report.facts import RunFacts


def overlap_notes(facts: RunFacts) -> list[str]:
    """Why the score does not hold for new images: a sentence for each two splits that share images."""
    return [f"{one}: a score on them says nothing about new images." for one in overlaps(facts.manifest)]


def data_notes(facts: RunFacts) -> list[str]:
    """What else a reader should know of the data, a sentence each."""
    manifest, rejected = facts.manifest, facts.rejected
    label, count = smallest_class(manifest)
    notes = [f"The smallest class is {label!r} with {count:,} images."]
    notes += [f"{line}." for line in copy_lines(manifest)]
    if kept := contradictions(manifest):
        notes.append(f"{len(kept):,} images lie under several labels, of which at most one is right.")
    for begins, why in (
        (CONTRADICTION, "since the same image lies under several labels"),
        (COPY, "since they are copies of evaluated images"),
    ):
        if files := sum(item.reason.startswith(begins) for item in rejected):
            notes.append(f"{files:,} files were left out {why}.")
    lost = lost_by_class(manifest, rejected)
    notes += [f"Left out: {one}." for one in lost[:SHOWN]]
    if len(lost) > SHOWN:
        notes.append(f"Left out: files of {len(lost) - SHOWN:,} more classes; rejected.csv has all.")
    return notes
