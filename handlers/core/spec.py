"""ModelSpec: the typed, versioned description of one served model; the contract between training and serving.

Stored as ``spec.json`` in a bundle. It names every other file of the bundle with its sha256, so the digest of
``spec.json`` identifies the whole bundle: that digest is part of every answer.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from .input import InputSpec
from .measurement import Measurement, Ranking
from .output import CalibrationSpec, OutputSpec
from .schema import SchemaError, to_dict

SCHEMA_VERSION = 3
SPEC_FILE = "spec.json"
BUNDLE_FOLDER = "bundle"
"""Name of the bundle's folder inside a run and inside an archive."""
EXPECTED_FILE = "golden/expected.json"
"""The golden answers of the bundle's first variant (see :mod:`marquee.handlers.core.golden`)."""

Precision = Literal["fp64", "fp32", "bf16", "fp16", "int8"]
TOLERANCES: dict[Precision, float] = {"fp64": 1e-6, "fp32": 1e-4, "bf16": 0.02, "fp16": 0.005, "int8": 0.02}
"""By which answers of one variant may differ between machines: low precision rounds sums in another order."""


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """One executable form of the model."""

    name: str
    """Unique within the bundle, such as ``fp32``."""
    engine: str
    """A name known to :mod:`marquee.handlers.core.engines`."""
    precision: Precision
    """Number format that the variant computes in; a variant whose kernels run in another one is not served."""
    files: dict[str, str]
    """Path inside the bundle -> sha256. The first is the one that the engine opens."""
    outputs: tuple[str, ...] = ("logits",)
    """Names of the arrays that its engine gives, in the order of the program's outputs."""
    tolerance: float = 1e-4
    """Largest difference of a served number from the golden answers that still counts as equal (see
    :meth:`marquee.handlers.core.output.Output.differences`)."""
    expected: str = EXPECTED_FILE
    """Path inside the bundle of this variant's own golden answers; one of ``golden.files``."""
    device: Literal["any", "cpu", "cuda"] = "any"
    """Where it runs."""
    isa: tuple[str, ...] = ()
    """Instruction sets (see :data:`marquee.handlers.core.host.ISA`), any one of which the CPU must have; empty: any CPU
    will do."""
    calibration: CalibrationSpec | None = None
    """What was fitted for this variant; None: as the model's."""
    measurements: tuple[Measurement, ...] = ()
    """What was measured, one a machine."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files: expected at least one")
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs: expected different names, got {', '.join(self.outputs)}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: expected a number between 0 and 1, got {self.tolerance}")
        check_files(self.files)


@dataclass(frozen=True, kw_only=True)
class GoldenSpec:
    """Real inputs with the answers that evaluation gave (see :mod:`marquee.handlers.core.golden`)."""

    files: dict[str, str] = field(default_factory=dict)
    """Path inside the bundle -> sha256: the raw inputs and ``golden/expected.json``."""

    def __post_init__(self) -> None:
        check_files(self.files)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that decides an answer, and where it came from."""

    schema_version: int
    """Version of this format; a reader refuses what it does not know."""
    task: str
    """What it was trained for, such as ``image-classification``; for people and for training, which knows its tasks by
    this name. Serving goes by ``input`` and ``output``."""
    input: InputSpec
    """From the bytes of a request to the arrays that an engine takes."""
    output: OutputSpec
    """From the arrays that an engine gives to an answer."""
    variants: tuple[VariantSpec, ...]
    """Executable forms, the preferred one first."""
    golden: GoldenSpec
    """Files of the golden samples."""
    rankings: tuple[Ranking, ...] = ()
    """Order of preference, one a machine; without any, the order of ``variants``."""
    samples: dict[str, str] = field(default_factory=dict)
    """Path inside the bundle -> sha256: some of the inputs that the quantizer saw, as raw files, for measuring on a
    machine that does not have the data set."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data digest, training configuration, library versions, metrics: facts for people and audits."""

    def __post_init__(self) -> None:
        check_version(self.schema_version)
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.task):
            raise ValueError(f"task: expected lower-case letters, digits and dashes, got {self.task!r}")
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"variants: expected at least one, with different names, got {names}")
        for place, variant in enumerate(self.variants):
            try:
                self.output.check_names(variant.outputs)
            except ValueError as error:
                raise ValueError(f"variants[{place}].outputs: {error}") from error
            if variant.calibration is not None and variant.calibration.kind != self.output.calibration.kind:
                raise ValueError(
                    f"variants[{place}].calibration.kind: expected {self.output.calibration.kind!r}, the output's, got "
                    f"{variant.calibration.kind!r}"
                )
        check_files(self.samples)
        for ranking in self.rankings:
            if unknown := sorted(set(ranking.order) - set(names)):
                raise ValueError(f"rankings: there is no variant {unknown[0]!r}; there are {', '.join(names)}")

    @property
    def files(self) -> dict[str, str]:
        """Every file of the bundle but ``spec.json`` itself: path -> sha256."""
        merged = {**self.golden.files, **self.samples}
        for variant in self.variants:
            merged.update(variant.files)
        return merged

    def to_json(self) -> str:
        """Canonical text: equal specifications give equal bytes."""
        return json.dumps(to_dict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_version(version: int) -> None:
    """Raises SchemaError for a format that this code does not read."""
    if version != SCHEMA_VERSION:
        raise SchemaError(
            f"schema_version: this code reads {SCHEMA_VERSION}, the bundle has {version}; "
            "package the run again with the code that serves it"
        )


def check_files(files: dict[str, str]) -> None:
    """Raises ValueError for a path that leaves the bundle or a digest that is none."""
    for path, digest in files.items():
        parts = path.split("/")
        if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"files: {path!r} is not a plain path inside the bundle")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"files: {path!r} has no sha256 of 64 hex digits, but {digest!r}")
