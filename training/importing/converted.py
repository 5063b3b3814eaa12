"""Converts an ONNX file, a TensorFlow SavedModel or an OpenVINO IR into an OpenVINO IR that takes the served pixels."""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.importing.config import ImportConfig, InputDefaults, image_spec
from marquee.training.importing.labels import check_count
from marquee.training.importing.openvino_graph import dynamic_batch, is_quantized, with_logits, with_pixel_input
from marquee.training.importing.ready import ReadyModel

if TYPE_CHECKING:
    import openvino as ov

FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO IR"}
"""Suffix -> name; a folder is a TensorFlow SavedModel."""
IR_FILE = "model.xml"
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "While validating", "Model wasn't fully")
"""Prefixes of lines that say where in OpenVINO's code an error occurred, not what is wrong with the file."""


def prepare(config: ImportConfig, labels: tuple[str, ...]) -> ReadyModel:
    """Reads the model, and adds normalisation, layout conversion and a dynamic batch size to its graph.

    Raises:
        TrainingError: OpenVINO is not installed or cannot read the file, or the model is not a classifier of
            square images with one output per label.
    """
    if config.arch is not None:
        raise TrainingError(f"--arch {config.arch}: {config.model} contains its architecture; leave --arch out")
    if config.model.is_dir() and not (config.model / "saved_model.pb").is_file():
        raise TrainingError(
            f"{config.model}: no saved_model.pb in it; expected the folder of a TensorFlow SavedModel"
            f"{_inside(config.model)}"
        )
    model = read_model(config.model)
    with openvino_errors(config.model):
        layout, side = _input(model, config)
        image = image_spec(config, InputDefaults(size=side or 224))
        dynamic_batch(model, config.model, layout, image)
        model = with_logits(model, config, len(labels))
        outputs = model.outputs[0].partial_shape[1]
        if outputs.is_static:
            check_count(config.labels, labels, outputs.get_length())
        normalised = _normalised(model.clone(), layout, image, config.channel_order)
        model = with_pixel_input(model, layout, image, config.channel_order)

    def write(folder: Path) -> list[str]:
        import openvino as ov

        ov.save_model(model, folder / IR_FILE, compress_to_fp16=False)
        return [IR_FILE, str(Path(IR_FILE).with_suffix(".bin"))]

    version = importlib.metadata.version("openvino")
    return ReadyModel(
        image=image,
        engine="openvino",
        device="cpu",
        precision="int8" if is_quantized(model) else "fp32",
        write=write,
        normalised=normalised,
        facts={
            "format": FORMATS.get(config.model.suffix.lower(), "TensorFlow SavedModel"),
            "library": f"openvino {version}",
            "layout": layout,
        },
    )


def _inside(folder: Path) -> str:
    """Which file of the folder was likely meant, for a message."""
    kinds = (".keras", ".h5", ".onnx", ".xml", ".safetensors", ".bin", ".pth", ".pt")
    found = sorted(
        (file for file in folder.iterdir() if file.suffix in kinds), key=lambda file: kinds.index(file.suffix)
    )
    return f", or one of its files, such as --model {found[0]}" if found else ""


def _normalised(
    model: "ov.Model", layout: str, image: ImageSpec, order: str
) -> Callable[[Sequence[float], Sequence[float]], Callable[[np.ndarray], np.ndarray]]:
    """See :class:`ReadyModel`."""

    def build(mean: Sequence[float], std: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
        from marquee.handlers.core.engines.openvino_core import core

        other = replace(image, mean=tuple(mean), std=tuple(std))
        compiled = core().compile_model(with_pixel_input(model.clone(), layout, other, order), "CPU")
        # A copy, since the engine reuses the memory of its output.
        return lambda pixels: np.array(compiled([pixels])[0])

    return build


def read_model(path: Path) -> "ov.Model":
    """Reads a model with one input and one output.

    Raises:
        TrainingError: see :func:`prepare`.
    """
    try:
        from marquee.handlers.core.engines.openvino_core import core  # optional, since training does not need it
    except ImportError as error:
        raise TrainingError(f"{path}: needs OpenVINO; pip install 'marquee[optimize]'") from error
    with openvino_errors(path):
        # Not ov.convert_model, which sends telemetry.
        model = core().read_model(path)
    for kind, ports in (("input", model.inputs), ("output", model.outputs)):
        if len(ports) != 1:
            names = ", ".join(port.any_name if port.names else "unnamed" for port in ports)
            raise TrainingError(
                f"{path}: {len(ports)} {kind}s ({names}); an image classifier has one: export only that one"
            )
    return model


def _input(model: "ov.Model", config: ImportConfig) -> tuple[str, int | None]:
    """``NCHW`` or ``NHWC``, and the side length from the shape of the input; None if ``--size`` determines it."""
    shape = model.inputs[0].partial_shape
    prefix = f"{config.model}: its input has the shape {shape}"
    if shape.rank.is_dynamic or len(shape) != 4:
        raise TrainingError(f"{prefix}; expected images with batch, channels, height and width")
    dims = [None if dimension.is_dynamic else dimension.get_length() for dimension in shape]
    layout = _layout(dims, config, prefix)
    sides = dims[2:] if layout == "NCHW" else dims[1:3]
    if None in sides:
        if config.size is None:
            raise TrainingError(f"{prefix}, without a fixed height and width; give its training size as --size")
        return layout, None
    if sides[0] != sides[1]:
        raise TrainingError(f"{prefix}, which is not square; export it for square images")
    if config.size not in (None, sides[0]):
        raise TrainingError(f"{prefix}; --size {config.size} does not fit it, leave --size out")
    return layout, sides[0]


def _layout(dims: list[int | None], config: ImportConfig, prefix: str) -> str:
    channel_axes = {"nchw": 1, "nhwc": 3}
    if config.layout == "auto":
        matching = [name for name, axis in channel_axes.items() if dims[axis] == config.channels]
        if len(matching) != 1:
            raise TrainingError(f"{prefix}; the axis of {config.channels} channels is ambiguous in it; give --layout")
        return matching[0].upper()
    if dims[channel_axes[config.layout]] not in (None, config.channels):
        raise TrainingError(f"{prefix}, which has no {config.channels} channels as --layout {config.layout} requires")
    return config.layout.upper()


@contextmanager
def openvino_errors(path: Path) -> Iterator[None]:
    """Turns OpenVINO's errors into a TrainingError with a one-line message about ``path``."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip(" -\t") for line in str(error).splitlines()]
        relevant = [line for line in lines if line and not line.startswith(_NOISE)]
        raise TrainingError(f"{path}: OpenVINO cannot use it: {' '.join(relevant)[:400]}") from error
