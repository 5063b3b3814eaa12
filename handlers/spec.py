"""ModelSpec: the typed, versioned description of one served model; the contract between training and serving.

Stored as ``spec.json`` in a bundle. It names every other file of the bundle with its sha256, so the digest of
``spec.json`` identifies the whole bundle: that digest is part of every answer.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import BundleError
from .measurement import Measurement, Ranking
from .migrate import migrate
from .schema import SchemaError, from_dict, to_dict

SCHEMA_VERSION = 3
SPEC_FILE = "spec.json"
BUNDLE_FOLDER = "bundle"
"""Name of the bundle's folder inside a run and inside an archive."""
EXPECTED_FILE = "golden/expected.json"
"""The golden answers of the bundle's first variant (see :mod:`marquee.handlers.golden`)."""

OutputName = Literal["logits", "features", "logits_and_distance"]
"""What an engine gives for N images: ``logits``, (N, labels); ``features``, (N, D), from which the distance is computed
(:mod:`marquee.handlers.distance`). ``logits_and_distance``, (N, labels + 1), only in bundles of earlier versions, whose
programs computed it."""
Precision = Literal["fp32", "bf16", "fp16", "int8"]
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.02, "fp16": 0.005, "int8": 0.02}
"""By which probabilities of one variant may differ between machines: low precision rounds sums in another order."""


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How the bytes of a file become the uint8 array that an engine takes."""

    channels: int
    """1 (grey) or 3 (RGB)."""
    resize: int
    """Length in pixels of the image's short side after resizing, before the centre crop."""
    crop: int
    """Side in pixels of the square centre crop, which is the engine's input; at most ``resize``."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the (antialiased) resize."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel, in 0..1; already applied inside the exported graph, kept here for the reader."""
    std: tuple[float, ...] = (1.0,)
    """Per channel, in 0..1; already applied inside the exported graph, kept here for the reader."""
    background: int = 255
    """Grey level, 0..255, that transparent pixels are composed over."""
    max_pixels: int = 50_000_000
    """Width x height above which an image is refused before it is decoded."""
    max_bytes: int = 20_000_000
    """Size of one encoded image above which it is refused."""
    decode: Literal["full", "scaled"] = "full"
    """How JPEG files are decoded: full: every pixel; scaled: at a half, a quarter or an eighth of their size, as long
    as both sides keep twice what the resize needs (see :func:`marquee.handlers.images.decode`), which costs a fraction
    for photographs. Bundles that do not say it were measured with full."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels: expected 1 or 3, got {self.channels}")
        if self.crop < 1:
            raise ValueError(f"crop: expected at least 1, got {self.crop}")
        if self.resize < self.crop:
            raise ValueError(f"resize: expected at least crop ({self.crop}), got {self.resize}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name}: expected {self.channels} values, got {len(getattr(self, name))}")
        if min(self.std) <= 0:
            raise ValueError(f"std: expected positive values, got {list(self.std)}")
        if not 0 <= self.background <= 255:
            raise ValueError(f"background: expected 0..255, got {self.background}")
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """How logits become an answer."""

    top_k: int = 5
    """How many labels an answer ranks, the likeliest first (fewer when there are fewer labels)."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax; 1 leaves the model's own confidence."""
    threshold: float = 0.5
    """Multi-label: a label with at least this probability is one of the image's."""
    min_probability: float = 0.0
    """An answer whose likeliest label has less is marked as abstained (``low_confidence``)."""
    max_distance: float | None = None
    """An answer for an image whose features lie further from those of training is marked as abstained
    (``unfamiliar``). None: none is, whether the distance is measured or not."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {self.top_k}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold: expected a number between 0 and 1, got {self.threshold}")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability: expected 0 to 1, got {self.min_probability}")
        if self.max_distance is not None and self.max_distance <= 0:
            raise ValueError(f"max_distance: expected a positive number, got {self.max_distance}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """One executable form of the model."""

    name: str
    """Unique within the bundle, such as ``fp32``."""
    engine: str
    """A name known to :mod:`marquee.handlers.engines`."""
    precision: Precision
    """Number format that the variant computes in; a variant whose kernels run in another one is not served."""
    files: dict[str, str]
    """Path inside the bundle -> sha256. The first is the one that the engine opens."""
    outputs: tuple[OutputName, ...] = ("logits",)
    """What its engine gives, in the order of the program's outputs."""
    tolerance: float = 1e-4
    """Largest difference in any probability from the golden answers that still counts as equal."""
    expected: str = EXPECTED_FILE
    """Path inside the bundle of this variant's own golden answers; one of ``golden.files``."""
    device: Literal["any", "cpu", "cuda"] = "any"
    """Where it runs."""
    isa: tuple[str, ...] = ()
    """Instruction sets (see :data:`marquee.handlers.host.ISA`), any one of which the CPU must have; empty: any CPU will
    do."""
    output: OutputSpec | None = None
    """How this variant's logits become an answer; None: as the model's."""
    measurements: tuple[Measurement, ...] = ()
    """What was measured, one a machine."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files: expected at least one")
        if len(set(self.outputs)) != len(self.outputs) or sum(name != "features" for name in self.outputs) != 1:
            raise ValueError(f"outputs: expected logits, with or without features, got {', '.join(self.outputs)}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: expected a number between 0 and 1, got {self.tolerance}")
        check_files(self.files)

    @property
    def measures_distance(self) -> bool:
        """Whether an answer has a feature distance."""
        return self.outputs != ("logits",)


@dataclass(frozen=True, kw_only=True)
class GoldenSpec:
    """Real inputs with the answers that evaluation gave (see :mod:`marquee.handlers.golden`)."""

    files: dict[str, str] = field(default_factory=dict)
    """Path inside the bundle -> sha256: the raw inputs and ``golden/expected.json``."""

    def __post_init__(self) -> None:
        check_files(self.files)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that decides an answer, and where it came from."""

    schema_version: int
    """Version of this format; a reader refuses what it does not know."""
    task: Literal["image-classification", "multi-label-classification"]
    """image-classification: one label an image, probabilities sum to 1; multi-label-classification: each label has a
    probability of its own."""
    labels: tuple[str, ...]
    """Class names; position = index of the logit."""
    image: ImageSpec
    """Decoding and resizing."""
    output: OutputSpec
    """Calibration and ranking."""
    variants: tuple[VariantSpec, ...]
    """Executable forms, the preferred one first."""
    golden: GoldenSpec
    """Files of the golden samples."""
    rankings: tuple[Ranking, ...] = ()
    """Order of preference, one a machine; without any, the order of ``variants``."""
    samples: dict[str, str] = field(default_factory=dict)
    """Path inside the bundle -> sha256: some of the images that the quantizer saw, as raw files, for measuring on a
    machine that does not have the data set."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data digest, training configuration, library versions, metrics: facts for people and audits."""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: this code reads {SCHEMA_VERSION}, the bundle has {self.schema_version}; "
                "package the run again with the code that serves it"
            )
        if len(self.labels) < 2:
            raise ValueError(f"labels: expected at least 2, got {len(self.labels)}")
        if len(set(self.labels)) != len(self.labels):
            repeated = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"labels: {repeated!r} is there twice")
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"variants: expected at least one, with different names, got {names}")
        check_files(self.samples)
        for ranking in self.rankings:
            if unknown := sorted(set(ranking.order) - set(names)):
                raise ValueError(f"rankings: there is no variant {unknown[0]!r}; there are {', '.join(names)}")

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.task == "multi-label-classification"

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


def check_files(files: dict[str, str]) -> None:
    """Raises ValueError for a path that leaves the bundle or a digest that is none."""
    for path, digest in files.items():
        parts = path.split("/")
        if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"files: {path!r} is not a plain path inside the bundle")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(f"files: {path!r} has no sha256 of 64 hex digits, but {digest!r}")


def read_spec(folder: Path) -> ModelSpec:
    """Reads and validates ``folder/spec.json``.

    Raises:
        BundleError: the file is absent, no JSON, or a field is wrong; the message names file and field.
    """
    path = Path(folder) / SPEC_FILE
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path}: not found; is this folder a bundle?") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable as JSON: {error}") from error
    try:
        return from_dict(ModelSpec, migrate(data, SCHEMA_VERSION))
    except SchemaError as error:
        raise BundleError(f"{path}: {error}") from error


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def bundle_digest(folder: Path) -> str:
    """``sha256:`` and the digest of ``spec.json``, which itself pins every other file of the bundle."""
    return f"sha256:{sha256_file(Path(folder) / SPEC_FILE)}"


def verify_files(folder: Path, files: dict[str, str]) -> None:
    """Compares files of a bundle with their digests.

    Args:
        folder: the bundle.
        files: path inside the bundle -> sha256, such as ``spec.files`` or ``variant.files``.

    Raises:
        BundleError: a file is missing or its content differs; the message names it.
    """
    for name, expected in files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise BundleError(f"{path}: missing, though spec.json names it")
        actual = sha256_file(path)
        if actual != expected:
            raise BundleError(
                f"{path}: sha256 is {actual[:12]}..., spec.json says {expected[:12]}...; "
                "the file was changed after export: package the run again"
            )
