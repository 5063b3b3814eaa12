"""From a network to variants: files in the bundle and their entries in the spec."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from marquee.handlers.distance import DISTANCE_FILE, Distance, write_distance
from marquee.handlers.spec import TOLERANCES, Precision, VariantSpec, sha256_file
from marquee.training.errors import OptimizeError
from marquee.training.export import export_program, outputs_of, trace_program
from marquee.training.familiarity import LogitsAndFeatures
from marquee.training.models import Classifier
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.material import Material
from marquee.training.optimize.openvino_ir import convert, quantize, read, relative, save
from marquee.training.progress import Progress

logger = logging.getLogger(__name__)

_BF16_CPUS = ("avx512_bf16", "amx_bf16")
"""Others compute bf16 by way of fp32, slower than fp32 itself."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a family of variants is built from: the run's own network, or a pruned one."""

    prefix: str
    """Of the variants' names; empty for the original."""
    classifier: Classifier | None
    """None for a model from elsewhere that PyTorch does not have."""
    distance: Distance | None = None
    """Of its features, where the model measures it."""


class Builder:
    """Builds variants of one network into the bundle.

    Args:
        network: the network.
        material: bundle, images and tables.
        config: limits.
        progress: told how each was made.
    """

    def __init__(self, network: Network, material: Material, config: OptimizeConfig, progress: Progress) -> None:
        self._network, self._material, self._config, self._progress = network, material, config, progress
        self._spec, self._folder = material.spec, material.folder
        self._ir: Any = None

    def build(self, kind: str) -> VariantSpec:
        """Writes the files of one variant and returns its entry.

        Args:
            kind: one of :data:`marquee.training.optimize.config.KINDS`, or ``fp32``.

        Raises:
            OptimizeError: it cannot be built; nothing of it is left behind.
        """
        build: Callable[[str], VariantSpec] = {
            "fp32": lambda name: self._exported(name, "fp32"),
            "bf16": lambda name: self._exported(name, "bf16"),
            "fp16": lambda name: self._exported(name, "fp16"),
            "compiled-fp32": lambda name: self._exported(name, "fp32", "compiled"),
            "compiled-bf16": lambda name: self._exported(name, "bf16", "compiled"),
            "openvino-fp32": lambda name: self._openvino(name, "fp32"),
            "openvino-bf16": lambda name: self._openvino(name, "bf16"),
            "openvino-int8": self._quantized,
        }[kind]
        return build(self._network.prefix + kind)

    def _exported(
        self, name: str, precision: Precision, engine: Literal["exported", "compiled"] = "exported"
    ) -> VariantSpec:
        classifier = self._classifier()
        if precision == "fp16" and not torch.cuda.is_available():
            raise OptimizeError("fp16 programs are for GPUs, and this machine has none to measure it on")
        path = self._place(f"program-{precision}") / "model.pt2"
        if not path.exists():
            lower = classifier if precision == "fp32" else LowPrecision(classifier, _DTYPES[precision])
            served: nn.Module = lower if self._network.distance is None else LogitsAndFeatures(lower)
            with _translated("torch.export"):
                path.parent.mkdir(parents=True, exist_ok=True)
                export_program(served.eval(), self._spec.image, path)
        return self._variant(
            name,
            engine,
            precision,
            [path, *self._tables()],
            device="cuda" if precision == "fp16" else "any",
            isa=_BF16_CPUS if precision == "bf16" else (),
        )

    def _openvino(self, name: str, precision: Precision) -> VariantSpec:
        path = self._place("openvino") / "model.xml"
        files = [path, path.with_suffix(".bin")] if path.exists() else save(self._converted(), path)
        isa = _BF16_CPUS if precision == "bf16" else ()
        return self._variant(name, "openvino", precision, files + self._tables(), device="cpu", isa=isa)

    def _quantized(self, name: str) -> VariantSpec:
        model, how = quantize(
            self._converted(), self._material.calibration, self._material.validation, self._config.max_accuracy_drop
        )
        logger.info(f"{name}: {how}")
        files = save(model, self._place("openvino-int8") / "model.xml")
        return self._variant(name, "openvino", "int8", files + self._tables(), device="cpu")

    def _converted(self) -> Any:
        """The network as an ``openvino.Model``, converted once."""
        if self._ir is None:
            with _translated("the conversion"):
                self._ir = self._convert()
        return self._ir

    def _convert(self) -> Any:
        classifier, image = self._network.classifier, self._spec.image
        if classifier is not None:
            served = classifier if self._network.distance is None else LogitsAndFeatures(classifier)
            return convert(trace_program(served, image), image)
        first = self._spec.variants[0]
        if first.precision == "int8":
            raise OptimizeError("the bundle's model is quantized already; import what it was quantized from")
        if "logits_and_distance" in first.outputs:
            raise OptimizeError("the bundle is of an earlier version and its run is not there to make variants from")
        path = self._folder / next(iter(first.files))
        return read(path) if first.engine == "openvino" else convert(torch.export.load(path), image)

    def _classifier(self) -> Classifier:
        if self._network.classifier is None:
            raise OptimizeError("only the bundle's program is there, not the network as PyTorch has it")
        return self._network.classifier

    def _tables(self) -> list[Path]:
        """The file of the distance's tables; none where the distance is not measured."""
        if self._network.distance is None:
            return []
        path = self._place(DISTANCE_FILE)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_distance(path, self._network.distance)
        return [path]

    def _place(self, name: str) -> Path:
        return self._folder / "variants" / (self._network.prefix + name)

    def _variant(
        self,
        name: str,
        engine: str,
        precision: Precision,
        files: list[Path],
        device: Literal["any", "cpu", "cuda"],
        isa: tuple[str, ...] = (),
    ) -> VariantSpec:
        return VariantSpec(
            name=name,
            engine=engine,
            precision=precision,
            files=dict(zip(relative(files, self._folder), map(sha256_file, files), strict=True)),
            outputs=outputs_of(self._network.distance),
            tolerance=TOLERANCES[precision],
            device=device,
            isa=isa,
        )


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LowPrecision(nn.Module):
    """The classifier with its backbone's weights and sums in half precision; normalisation and answers are fp32.

    Args:
        classifier: in fp32; it is copied.
        dtype: of the backbone.
    """

    def __init__(self, classifier: Classifier, dtype: torch.dtype) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier)
        self.classifier.backbone.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classifier.compute_dtype = dtype

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, C) -> float32 (N, labels)."""
        logits: torch.Tensor = self.classifier(pixels)
        return logits.float()

    def logits_and_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`marquee.training.models.Classifier.logits_and_features`; both float32."""
        logits, features = self.classifier.logits_and_features(pixels)
        return logits.float(), features.float()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Anything that a library raises becomes one line."""
    try:
        yield
    except OptimizeError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        raise OptimizeError(f"{what} does not know this network: {first[:300]}") from error
