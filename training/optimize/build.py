"""Builds variants of a network: the files in the bundle and their entries in the spec."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.core.engines.exported import load_program
from marquee.handlers.core.spec import TOLERANCES, Precision, VariantSpec
from marquee.handlers.outputs.classification import FEATURES, LOGITS, LOGITS_AND_DISTANCE
from marquee.handlers.outputs.distance import DISTANCE_FILE, Distance, write_distance
from marquee.training.core.errors import OptimizeError
from marquee.training.core.export import export_program, trace_program
from marquee.training.core.progress import Progress
from marquee.training.core.task import task_for
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.datasets import Datasets
from marquee.training.optimize.openvino_ir import Fed, Judge, convert, quantize, read, relative, save

logger = logging.getLogger(__name__)

_BF16_CPUS = ("avx512_bf16", "amx_bf16")
"""Other CPUs emulate bf16 with fp32, which is slower than fp32 itself."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network that a family of variants is built from: the run's own, or a pruned one."""

    prefix: str
    """Prefix of the variants' names; empty for the original network."""
    model: nn.Module | None
    """None for an imported model, for which there is no PyTorch module."""
    distance: Distance | None = None
    """Distance tables fitted to the network's features; None if the model does not measure the distance."""


class Builder:
    """Builds variants of one network into the bundle.

    Args:
        network: the network.
        datasets: the bundle, the items and the distance tables.
        config: which variants to build, and their limits.
        progress: where progress is reported.
    """

    def __init__(self, network: Network, datasets: Datasets, config: OptimizeConfig, progress: Progress) -> None:
        self._network, self._datasets, self._config, self._progress = network, datasets, config, progress
        self._spec, self._folder = datasets.spec, datasets.bundle.folder
        self._task = task_for(datasets.spec)
        self._ir: Any = None

    def build(self, kind: str) -> VariantSpec:
        """Writes the files of one variant and returns its entry.

        Args:
            kind: one of :data:`marquee.training.optimize.config.KINDS` that the task's models can have, or ``fp32``.

        Raises:
            OptimizeError: the variant cannot be built; none of its files are left behind.
        """
        build: Callable[[str], VariantSpec] = {
            "fp32": lambda name: self._exported(name, "fp32"),
            "bf16": lambda name: self._exported(name, "bf16"),
            "fp16": lambda name: self._exported(name, "fp16"),
            "compiled-fp32": lambda name: self._exported(name, "fp32", "compiled"),
            "compiled-fp64": lambda name: self._exported(name, "fp64", "compiled"),
            "compiled-bf16": lambda name: self._exported(name, "bf16", "compiled"),
            "openvino-fp32": lambda name: self._openvino(name, "fp32"),
            "openvino-bf16": lambda name: self._openvino(name, "bf16"),
            "openvino-int8": self._quantized,
        }[kind]
        return build(self._network.prefix + kind)

    def _exported(
        self, name: str, precision: Precision, engine: Literal["exported", "compiled"] = "exported"
    ) -> VariantSpec:
        model = self._model()
        if precision == "fp16" and not torch.cuda.is_available():
            raise OptimizeError("fp16 programs need a GPU, and this machine has none to measure them on")
        path = self._place(f"program-{precision}") / "model.pt2"
        if not path.exists():
            lower = self._task.lower(model, _DTYPES[precision]) if precision in _DTYPES else model
            with _one_line_errors("torch.export"):
                path.parent.mkdir(parents=True, exist_ok=True)
                module = self._task.served_by("exported", self._spec, lower, self._outputs)
                export_program(module, self._spec.input, path)
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
        model, summary = quantize(
            self._converted(), self._datasets.calibration, self._judge(), self._config.max_accuracy_drop
        )
        logger.info(f"{name}: {summary}")
        files = save(model, self._place("openvino-int8") / "model.xml")
        return self._variant(name, "openvino", "int8", files + self._tables(), device="cpu")

    def _converted(self) -> Any:
        """The network as an ``openvino.Model``, converted once."""
        if self._ir is None:
            with _one_line_errors("the conversion"):
                self._ir = self._convert()
        return self._ir

    def _convert(self) -> Any:
        model, source = self._network.model, Fed(self._spec.input)
        if model is not None:
            module = self._task.served_by("openvino", self._spec, model, self._outputs)
            return convert(trace_program(module, source), source)
        first = self._spec.variants[0]
        if first.precision == "int8":
            raise OptimizeError("the bundle's model is already quantized; import the model that it was quantized from")
        if LOGITS_AND_DISTANCE in first.outputs:
            raise OptimizeError("the bundle was written by an earlier version; building variants needs its run folder")
        if any(values.dtype == np.float64 for values in self._spec.input.example(1).values()):
            raise OptimizeError("the bundle has only a program in float64, and OpenVINO computes in float32")
        path = self._folder / next(iter(first.files))
        return read(path) if first.engine == "openvino" else convert(load_program(path), source)

    def _judge(self) -> Judge | None:
        """Measures the accuracy loss of int8 on the validation items; None if there are no labelled ones."""
        samples, first = self._datasets.validation, self._spec.variants[0]
        if samples is None or samples.targets is None:
            return None
        targets = samples.targets
        # The distance does not decide which answers are right, and a pruned network has other features.
        names = tuple(name for name in self._outputs if name != FEATURES)
        output = self._spec.output.create(replace(first, outputs=names), None)

        def right(arrays: Arrays) -> np.ndarray:
            return self._task.right(output, output.read({name: arrays[name] for name in names}), targets)

        return Judge(samples, right, self._outputs)

    def _model(self) -> nn.Module:
        if self._network.model is None:
            raise OptimizeError("only the exported program is available, not the PyTorch module")
        return self._network.model

    def _tables(self) -> list[Path]:
        """The file with the distance tables; an empty list if the distance is not measured."""
        if self._network.distance is None:
            return []
        path = self._place(DISTANCE_FILE)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_distance(path, self._network.distance)
        return [path]

    @property
    def _outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the variants' programs."""
        # With a distance they are named anew, as a bundle of an earlier version has it among the program's outputs.
        return self._spec.variants[0].outputs if self._network.distance is None else (LOGITS, FEATURES)

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
            outputs=self._outputs,
            tolerance=TOLERANCES[precision],
            device=device,
            isa=isa,
        )


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def _one_line_errors(step: str) -> Iterator[None]:
    """Turns any exception of a library into an OptimizeError with a one-line message."""
    try:
        yield
    except OptimizeError:
        raise
    except Exception as error:
        first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        raise OptimizeError(f"{step} does not support this network: {first_line[:300]}") from error
