"""Candidates: what the ladder file says, and whether their weights can be had."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from marquee.handlers.schema import SchemaError, from_dict, to_dict
from marquee.training.config import RunConfig
from marquee.training.errors import TrainingError
from marquee.training.models import check_model, create_backbone


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One rung of the ladder."""

    name: str
    """Unique; letters, digits, dot, dash and underscore, since it names a folder."""
    kind: Literal["probe", "train"] = "train"
    """probe: logistic regression on the features of a frozen backbone; train: all weights are trained."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`marquee.training.config.RunConfig`, nested, that this candidate sets."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name: expected letters, digits, dot, dash and underscore, got {self.name!r}")

    def resolve(self, base: RunConfig) -> RunConfig:
        """``base`` with this candidate's own fields on top.

        Raises:
            TrainingError: a field is unknown or wrong; the message names candidate and field.
        """
        merged = to_dict(base)
        try:
            for part, fields in self.config.items():
                if not isinstance(fields, dict) or part not in merged:
                    from_dict(RunConfig, {part: fields})  # says what is wrong with it
                merged[part] = {**merged[part], **fields}
            return from_dict(RunConfig, merged)
        except SchemaError as error:
            raise TrainingError(f"candidate {self.name}: config.{error}") from error


@dataclass(frozen=True, kw_only=True)
class _Ladder:
    candidates: tuple[Candidate, ...]


def read_ladder(path: Path) -> tuple[Candidate, ...]:
    """Reads a YAML list of candidates, simple ones first.

    Raises:
        TrainingError: the file cannot be read, a field is unknown or wrong, or a name is there twice.
    """
    try:
        data = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable as YAML: {error}") from error
    try:
        candidates = from_dict(_Ladder, {"candidates": data}).candidates
    except SchemaError as error:
        raise TrainingError(f"{path}: {error}") from error
    # Case does not tell folders apart everywhere.
    names = [candidate.name.lower() for candidate in candidates]
    if not names:
        raise TrainingError(f"{path}: no candidates; expected a list of name, kind and config")
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise TrainingError(f"{path}: the name {repeated!r} is there twice; names are folders, give each its own")
    return candidates


def missing_weights(config: RunConfig, classes: int) -> str | None:
    """Why the pretrained weights of a candidate cannot be had, on one line; None when they can, or none are wanted.

    Raises:
        TrainingError: timm does not know the architecture, which no download would mend.
    """
    check_model(replace(config.model, pretrained="none"))
    if config.model.pretrained == "none":
        return None
    try:
        create_backbone(config.model, config.image, classes, channels=3)
    except TrainingError as error:
        # Libraries go on with advice of their own.
        return " ".join(str(error).split()).split(". ")[0]
    return None
