"""Converts PyTorch programs to OpenVINO IR, in floating point and in int8."""

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marquee.handlers.core.arrays import Arrays, rows, take
from marquee.handlers.core.engines.float_parts import in_parts
from marquee.handlers.core.input import InputSpec
from marquee.training.core.errors import OptimizeError
from marquee.training.optimize.datasets import LEAST_CALIBRATION, Samples
from marquee.training.workarounds.signal_stack import kept_signal_stack

_BATCH = 32
_INSTALL = 'install the extra: pip install "marquee[optimize]"'


class Fed(InputSpec):
    """An input whose arrays are as the engine hands them to OpenVINO.

    Args:
        source: the model's input.
    """

    def __init__(self, source: InputSpec) -> None:
        self._source = source

    def example(self, items: int) -> Arrays:
        """See :class:`InputSpec`."""
        return in_parts(self._source.example(items))


def convert(program: torch.export.ExportedProgram, source: InputSpec) -> Any:
    """Converts ``program`` to an ``openvino.Model`` with a dynamic batch size.

    Args:
        program: a traced program.
        source: the input that it was traced with.

    Raises:
        OptimizeError: OpenVINO is not installed, or cannot express an operation.
    """
    openvino = import_openvino()
    try:
        model = openvino.convert_model(program)
        # The converter makes every dimension dynamic, and kernels for dynamic shapes are slower.
        shapes = (values.shape[1:] for values in source.example(1).values())
        model.reshape({number: [-1, *shape] for number, shape in enumerate(shapes)})
    except Exception as error:
        raise OptimizeError(f"OpenVINO cannot convert this network: {shorten(error)}") from error
    return model


def read(path: Path) -> Any:
    """Reads an ``openvino.Model`` from its ``.xml`` file."""
    return import_core().read_model(path)


def save(model: Any, path: Path) -> list[Path]:
    """Writes ``path`` (``.xml``) and its ``.bin``; returns both, the ``.xml`` first."""
    openvino = import_openvino()
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


@dataclass(frozen=True)
class Judge:
    """Measures the accuracy of an ``openvino.Model``."""

    samples: Samples
    """Labelled items."""
    right: Callable[[Arrays], np.ndarray]
    """Takes the model's named outputs for all samples; returns which answers are right, bool (N,)."""
    names: tuple[str, ...]
    """Names of the model's outputs."""
    described: str = "the validation items"
    """The items in words: other ones than those that variants are judged on in the end."""

    def accuracy(self, model: Any) -> float:
        """Share of right answers of an ``openvino.Model``."""
        return self.compiled_accuracy(import_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))

    def compiled_accuracy(self, compiled: Any) -> float:
        """Share of right answers of a compiled model."""
        inputs, parts = self.samples.inputs, []
        for start in range(0, rows(inputs), _BATCH):
            result = compiled(list(take(inputs, slice(start, start + _BATCH)).values()))
            parts.append([np.asarray(result[number]) for number in range(len(self.names))])
        arrays = (np.concatenate(batches) for batches in zip(*parts, strict=True))
        return float(self.right(dict(zip(self.names, arrays, strict=True))).mean())


def quantize(model: Any, calibration: Samples, judge: Judge | None, max_drop: float) -> tuple[Any, str]:
    """Post-training quantization to int8 (NNCF), with accuracy control if plain quantization loses too much accuracy.

    Args:
        model: from :func:`convert`, in fp32.
        calibration: items that determine the quantization ranges.
        judge: measures accuracy on labelled items; without it there is no accuracy control.
        max_drop: largest allowed accuracy drop, as a fraction.

    Returns:
        The quantized model, and one line about how it was quantized.

    Raises:
        OptimizeError: NNCF is not installed or fails, or there are too few calibration items.
    """
    if len(calibration) < LEAST_CALIBRATION:
        raise OptimizeError(
            f"only {len(calibration)} images to calibrate on; int8 needs at least {LEAST_CALIBRATION}, better 300"
        )
    nncf = _import_nncf()
    # NNCF prints progress bars to stdout, which is reserved for the command's result.
    import_core()
    with contextlib.redirect_stdout(sys.stderr), kept_signal_stack():
        return _quantize(nncf, model, calibration, judge, max_drop)


def _quantize(nncf: Any, model: Any, calibration: Samples, judge: Judge | None, max_drop: float) -> tuple[Any, str]:
    options = {"subset_size": len(calibration), "preset": nncf.QuantizationPreset.MIXED}
    dataset = nncf.Dataset(_items(calibration))
    try:
        plain = nncf.quantize(model, dataset, **options)
        if judge is None:
            return plain, f"plain, {len(calibration)} images"
        before, after = (judge.accuracy(candidate) for candidate in (model, plain))
        if before - after <= max_drop:
            return plain, f"plain, {len(calibration)} images; accuracy {before:.4f} -> {after:.4f} on {judge.described}"
        controlled = nncf.quantize_with_accuracy_control(
            model,
            dataset,
            nncf.Dataset(_items(judge.samples)),
            validation_fn=_Validation(judge),
            max_drop=max_drop,
            **options,
        )
    except Exception as error:
        raise OptimizeError(f"NNCF cannot quantize this network: {shorten(error)}") from error
    final = judge.accuracy(controlled)
    drops = f"on {judge.described}, accuracy drops by {before - after:.4f} without it, by {before - final:.4f} with it"
    return controlled, f"with accuracy control: {drops}"


def _items(samples: Samples) -> list[Any]:
    """Each item in the form that the model takes: an array, or a list of several."""
    items = [list(take(samples.inputs, slice(i, i + 1)).values()) for i in range(len(samples))]
    return [item[0] if len(item) == 1 else item for item in items]


class _Validation:
    """NNCF's validation function; a class because NNCF calls it with models in two forms."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def __call__(self, model: Any, dataset: Any) -> tuple[float, None]:
        return self._judge.compiled_accuracy(model), None


def shorten(error: Exception) -> str:
    """Shortens a library's long message to its last non-empty line, which states the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else repr(error))[:300]


def import_core() -> Any:
    """:func:`marquee.handlers.core.engines.openvino_core.core`, or an OptimizeError that names the extra to install."""
    import_openvino()
    from marquee.handlers.core.engines.openvino_core import core

    return core()


def import_openvino() -> Any:
    """The ``openvino`` module, or an OptimizeError that names the extra to install."""
    try:
        import openvino
    except ImportError as error:
        raise OptimizeError(f"OpenVINO is not installed ({error}); {_INSTALL}") from error
    return openvino


def _import_nncf() -> Any:
    # NNCF imports PyTorch's extension builder, which warns when there is no CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import nncf
    except ImportError as error:
        raise OptimizeError(f"NNCF is not installed ({error}); {_INSTALL}") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def relative(files: Sequence[Path], folder: Path) -> list[str]:
    """Paths relative to ``folder``, in the form that a spec uses."""
    return [file.relative_to(folder).as_posix() for file in files]
