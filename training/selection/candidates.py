"""Candidates: reads the ladder file and checks that pretrained weights are available."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from marquee.handlers.core.schema import SchemaError, from_dict
from marquee.training.core.config import RunConfig, merged
from marquee.training.core.errors import TrainingError
from marquee.training.core.yaml_text import read_yaml

if TYPE_CHECKING:
    from marquee.training.tasks.image_classification.config import ImageRunConfig

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model configuration to compare, with its place in the ladder from simple to complex."""

    name: str
    """Unique; letters, digits, dot, dash and underscore, since it names a folder."""
    kind: Literal["probe", "train"] = "train"
    """probe: for images, logistic regression on the features of a frozen backbone; train: all weights are trained."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`marquee.training.core.config.RunConfig`, nested, that this candidate overrides."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name: expected letters, digits, dot, dash and underscore, got {self.name!r}")

    def resolve(self, base: C) -> C:
        """``base`` with the fields of this candidate's ``config`` replaced.

        Raises:
            TrainingError: a field is unknown or invalid; the message names the candidate and the field.
        """
        try:
            return merged(base, self.config)
        except SchemaError as error:
            raise TrainingError(f"candidate {self.name}: config.{error}") from error


@dataclass(frozen=True, kw_only=True)
class _Ladder:
    candidates: tuple[Candidate, ...]


def read_ladder(path: Path) -> tuple[Candidate, ...]:
    """Reads a YAML list of candidates, the simplest first.

    Raises:
        TrainingError: the file cannot be read, a field is unknown or invalid, or a name occurs twice.
    """
    data = read_yaml(path)
    try:
        candidates = from_dict(_Ladder, {"candidates": data}).candidates
    except SchemaError as error:
        raise TrainingError(f"{path}: {error}") from error
    # Some file systems ignore the case of folder names.
    names = [candidate.name.lower() for candidate in candidates]
    if not names:
        raise TrainingError(f"{path}: no candidates; expected a list of name, kind and config")
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise TrainingError(f"{path}: the name {repeated!r} occurs twice; names become folders and must differ")
    return candidates


def missing_weights(config: "ImageRunConfig", classes: int) -> str | None:
    """Why the pretrained weights of an image network are unavailable, on one line; None where they are not.

    Raises:
        TrainingError: timm does not know the architecture, so no download would help.
    """
    # Imported late: other kinds of candidates need no networks for images.
    from marquee.training.tasks.image_classification.models import check_model, create_backbone

    check_model(replace(config.model, pretrained="none"))
    if config.model.pretrained == "none":
        return None
    try:
        create_backbone(config.model, config.image, classes, channels=3)
    except TrainingError as error:
        # Only the first sentence: libraries append their own advice.
        return " ".join(str(error).split()).split(". ")[0]
    return None
