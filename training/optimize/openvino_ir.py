"""PyTorch -> OpenVINO IR, in floating point and in int8."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marquee.handlers.spec import ImageSpec
from marquee.training.errors import OptimizeError
from marquee.training.optimize.material import LEAST_CALIBRATION, Images
from marquee.training.optimize.signal_stack import kept_signal_stack

_INSTALL = 'install the extra: pip install "marquee[optimize]"'


def convert(program: torch.export.ExportedProgram, image: ImageSpec) -> Any:
    """An ``openvino.Model`` of ``program``, for any number of images.

    Raises:
        OptimizeError: OpenVINO is not installed, or cannot express an operation.
    """
    openvino = import_openvino()
    try:
        model = openvino.convert_model(program)
        # The converter leaves every dimension open, and kernels for any size are slower.
        model.reshape({0: [-1, image.crop, image.crop, image.channels]})
    except Exception as error:
        raise OptimizeError(f"OpenVINO cannot convert this network: {shorten(error)}") from error
    return model


def read(path: Path) -> Any:
    """An ``openvino.Model`` from its ``.xml``."""
    return import_core().read_model(path)


def save(model: Any, path: Path) -> list[Path]:
    """Writes ``path`` (``.xml``) and its ``.bin``; returns both, the ``.xml`` first."""
    openvino = import_openvino()
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def quantize(model: Any, calibration: Images, validation: Images | None, max_drop: float) -> tuple[Any, str]:
    """Post-training quantization to int8 (NNCF), with accuracy control where the plain one loses too much.

    Args:
        model: from :func:`convert`, in fp32.
        calibration: images that the ranges are taken from.
        validation: labelled images; without them there is no accuracy control.
        max_drop: accuracy, as a share, that may be lost on ``validation``.

    Returns:
        The quantized model, and a line about how it was made.

    Raises:
        OptimizeError: NNCF is not installed or fails, or there are too few images.
    """
    if len(calibration) < LEAST_CALIBRATION:
        raise OptimizeError(
            f"{len(calibration)} images to calibrate on; int8 needs at least {LEAST_CALIBRATION}, better 300"
        )
    nncf = _import_nncf()
    dataset = nncf.Dataset([calibration.pixels[i : i + 1] for i in range(len(calibration))])
    options = {"subset_size": len(calibration), "preset": nncf.QuantizationPreset.MIXED}
    # Its progress bars go to stdout, which belongs to the command's answer.
    import_core()
    with contextlib.redirect_stdout(sys.stderr), kept_signal_stack():
        return _quantize(nncf, model, dataset, calibration, validation, max_drop, options)


def _quantize(
    nncf: Any,
    model: Any,
    dataset: Any,
    calibration: Images,
    validation: Images | None,
    max_drop: float,
    options: dict[str, Any],
) -> tuple[Any, str]:
    try:
        plain = nncf.quantize(model, dataset, **options)
        if validation is None or validation.targets is None or validation.targets.ndim == 2:
            return plain, f"plain, {len(calibration)} images"
        before, after = (accuracy(candidate, validation) for candidate in (model, plain))
        if before - after <= max_drop:
            return plain, f"plain, {len(calibration)} images; validation accuracy {before:.4f} -> {after:.4f}"
        controlled = nncf.quantize_with_accuracy_control(
            model,
            dataset,
            nncf.Dataset(
                list(zip(np.split(validation.pixels, len(validation)), validation.targets, strict=True)),
                lambda item: item[0],
            ),
            validation_fn=_Validation(validation),
            max_drop=max_drop,
            **options,
        )
    except Exception as error:
        raise OptimizeError(f"NNCF cannot quantize this network: {shorten(error)}") from error
    kept = accuracy(controlled, validation)
    return controlled, f"with accuracy control: the plain one loses {before - after:.4f}, this one {before - kept:.4f}"


class _Validation:
    """NNCF's validation function; a class because NNCF calls it with models in two forms."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __call__(self, model: Any, dataset: Any) -> tuple[float, None]:
        return _accuracy_of(model, self._images), None


def accuracy(model: Any, images: Images) -> float:
    """Share of right answers of an ``openvino.Model``."""
    return _accuracy_of(import_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), images)


def _accuracy_of(compiled: Any, images: Images) -> float:
    answers = [np.argmax(compiled(images.pixels[i : i + 32])[0], axis=1) for i in range(0, len(images), 32)]
    return float((np.concatenate(answers) == images.targets).mean())


def shorten(error: Exception) -> str:
    """One line of a library's long message: its last non-empty one says what it is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else repr(error))[:300]


def import_core() -> Any:
    """:func:`marquee.handlers.engines.openvino_core.core`, or an error that names the extra."""
    import_openvino()
    from marquee.handlers.engines.openvino_core import core

    return core()


def import_openvino() -> Any:
    """The library, or an error that names the extra."""
    try:
        import openvino
    except ImportError as error:
        raise OptimizeError(f"OpenVINO is not installed ({error}); {_INSTALL}") from error
    return openvino


def _import_nncf() -> Any:
    # It imports torch's extension builder, which warns where there is no CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import nncf
    except ImportError as error:
        raise OptimizeError(f"NNCF is not installed ({error}); {_INSTALL}") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def relative(files: Sequence[Path], folder: Path) -> list[str]:
    """Paths inside ``folder``, as a spec names them."""
    return [file.relative_to(folder).as_posix() for file in files]
