"""An ONNX file, a TensorFlow SavedModel or an OpenVINO IR -> an OpenVINO IR that takes the served pixels."""

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.training.errors import TrainingError
from marquee.training.importing.config import ImportConfig, InputDefaults, image_spec
from marquee.training.importing.labels import check_count
from marquee.training.importing.openvino_graph import dynamic_batch, is_quantized, logits_of, pixels_in
from marquee.training.importing.ready import ReadyModel

if TYPE_CHECKING:
    import openvino as ov

FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO IR"}
"""Suffix -> name; a folder is a TensorFlow SavedModel."""
IR_FILE = "model.xml"
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "While validating", "Model wasn't fully")
"""Starts of lines that tell where in OpenVINO's code an error arose, not what is wrong with the file."""


def prepare(config: ImportConfig, labels: tuple[str, ...]) -> ReadyModel:
    """Reads the model, and puts normalisation, layout and a batch of any size into its graph.

    Raises:
        TrainingError: OpenVINO is not installed or cannot read the file, or the model is no classifier of single
            square images with an output for each label.
    """
    if config.arch is not None:
        raise TrainingError(f"--arch {config.arch}: {config.model} holds its own architecture; leave it out")
    if config.model.is_dir() and not (config.model / "saved_model.pb").is_file():
        raise TrainingError(f"{config.model}: no saved_model.pb in it; expected the folder of a TensorFlow SavedModel")
    model = read_model(config.model)
    with said_of(config.model):
        layout, side = _input(model, config)
        image = image_spec(config, InputDefaults(size=side or 224))
        dynamic_batch(model, config.model, layout, image)
        model = logits_of(model, config, len(labels))
        outputs = model.outputs[0].partial_shape[1]
        if outputs.is_static:
            check_count(config.labels, labels, outputs.get_length())
        model = pixels_in(model, layout, image)

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
        facts={
            "format": FORMATS.get(config.model.suffix.lower(), "TensorFlow SavedModel"),
            "library": f"openvino {version}",
            "layout": layout,
        },
    )


def read_model(path: Path) -> "ov.Model":
    """Reads a model with one input and one output.

    Raises:
        TrainingError: see :func:`prepare`.
    """
    try:
        from marquee.handlers.engines.openvino_core import core  # an extra: training alone does not need it
    except ImportError as error:
        raise TrainingError(f"{path}: needs OpenVINO; pip install 'marquee[optimize]'") from error
    with said_of(path):
        # Not ov.convert_model, which reports its use over the network.
        model = core().read_model(path)
    for kind, ports in (("input", model.inputs), ("output", model.outputs)):
        if len(ports) != 1:
            names = ", ".join(port.any_name if port.names else "unnamed" for port in ports)
            raise TrainingError(
                f"{path}: {len(ports)} {kind}s ({names}); a classifier of images has one: export it with that alone"
            )
    return model


def _input(model: "ov.Model", config: ImportConfig) -> tuple[str, int | None]:
    """``NCHW`` or ``NHWC``, and the side that the input's shape tells; None where ``--size`` sets it."""
    shape = model.inputs[0].partial_shape
    shown = f"{config.model}: its input has the shape {shape}"
    if shape.rank.is_dynamic or len(shape) != 4:
        raise TrainingError(f"{shown}; expected images: batch, channels, height and width in any order of layout")
    dims = [None if dimension.is_dynamic else dimension.get_length() for dimension in shape]
    layout = _layout(dims, config, shown)
    sides = dims[2:] if layout == "NCHW" else dims[1:3]
    if None in sides:
        if config.size is None:
            raise TrainingError(f"{shown}, without a fixed height and width; say with --size which it was trained for")
        return layout, None
    if sides[0] != sides[1]:
        raise TrainingError(f"{shown}, which is not square; export it for square images")
    if config.size not in (None, sides[0]):
        raise TrainingError(f"{shown}; --size {config.size} does not fit it, leave it out")
    return layout, sides[0]


def _layout(dims: list[int | None], config: ImportConfig, shown: str) -> str:
    places = {"nchw": 1, "nhwc": 3}
    if config.layout == "auto":
        fitting = [name for name, place in places.items() if dims[place] == config.channels]
        if len(fitting) != 1:
            raise TrainingError(f"{shown}, which does not tell where its {config.channels} channels are; give --layout")
        return fitting[0].upper()
    if dims[places[config.layout]] not in (None, config.channels):
        raise TrainingError(f"{shown}, which has no {config.channels} channels as --layout {config.layout} would have")
    return config.layout.upper()


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Turns OpenVINO's errors into one line about ``path``."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip(" -\t") for line in str(error).splitlines()]
        told: Any = [line for line in lines if line and not line.startswith(_NOISE)]
        raise TrainingError(f"{path}: OpenVINO cannot use it: {' '.join(told)[:400]}") from error
