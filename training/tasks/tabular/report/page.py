"""What the pages of a regression and of a classification share."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from marquee.handlers.core.schema import to_dict
from marquee.training.core.dataset import SPLITS
from marquee.training.report.text import flat, number
from marquee.training.report.training import Measured, throughput
from marquee.training.report.variants import variants_context
from marquee.training.tasks.tabular.report.columns import columns_of
from marquee.training.tasks.tabular.report.facts import TableFacts
from marquee.training.tasks.tabular.report.rows import Unfamiliar, unfamiliar_features

MOST_IMPORTANT = 20
"""Columns whose importance is shown at once; the others can be unfolded."""
_REJECTED, _UNFAMILIAR, _REASONS = 50, 20, 6
LOSS = Measured(
    name="Loss",
    key="loss",
    show=lambda value: number(value, 4),
    caption="Loss that is minimised, with its penalties on the training rows.",
)


@dataclass(frozen=True, kw_only=True)
class UnfamiliarRow:
    """A measured row in which some feature lies outside of what training saw."""

    path: str
    features: tuple[Unfamiliar, ...]
    more: int
    """Features that are not listed."""
    answer: tuple[str, ...]
    """Truth and answer as they are shown."""


def table_context(facts: TableFacts) -> dict[str, Any]:
    """The values that both pages take."""
    importances = facts.importances
    return {
        "facts": facts,
        "items": "rows",
        "evaluation": facts.evaluation,
        "target": facts.manifest.target,
        "unit": facts.manifest.unit,
        "split_name": split_name(facts.evaluation["split"]),
        "throughput": throughput(facts, "rows"),
        "seconds": facts.seconds,
        "importances": importances,
        "shown_importances": importances.columns[:MOST_IMPORTANT] if importances else (),
        "columns": columns_of(facts),
        **_unfamiliar(facts),
        **variants_context(facts, "row"),
        **_splits(facts),
        "config": to_dict(facts.config),
        "environment": {**flat(facts.environment), **_provenance(facts)},
    }


def split_name(split: str) -> str:
    """A split in words."""
    return "validation" if split == "val" else split


def _unfamiliar(facts: TableFacts) -> dict[str, Any]:
    found = np.flatnonzero(facts.unfamiliar).tolist()
    rows = []
    for place in found[:_UNFAMILIAR]:
        features = unfamiliar_features(facts, place)
        rows.append(
            UnfamiliarRow(
                path=facts.measured[place].path,
                features=tuple(features[:_REASONS]),
                more=max(0, len(features) - _REASONS),
                answer=facts.answer(place),
            )
        )
    return {"unfamiliar_count": len(found), "unfamiliar_rows": rows}


def _splits(facts: TableFacts) -> dict[str, Any]:
    by = facts.config.split.by
    if by == "auto":
        by = "time" if facts.config.table.time else "group" if facts.config.table.group else "random"
    return {
        "split_by": by,
        "split_column": {"time": facts.config.table.time, "group": facts.config.table.group}.get(by, ""),
        "split_sizes": {split: len(facts.manifest.split(split)) for split in SPLITS},
        "split_groups": {
            split: len({record.group for record in facts.manifest.split(split) if record.group}) for split in SPLITS
        },
        "sources": "rows",
        "source": "row",
        "rejected": facts.rejected[:_REJECTED],
        "short": str,
    }


def _provenance(facts: TableFacts) -> dict[str, Any]:
    found = {"data": facts.manifest.digest, "checkpoint": facts.spec.provenance.get("checkpoint")}
    return {name: value for name, value in found.items() if value}
