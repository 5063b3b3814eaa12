"""What is put into a converted model's graph, so that it takes the served pixels and gives logits."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from marquee.handlers.spec import ImageSpec
from marquee.training.errors import TrainingError
from marquee.training.importing.config import ImportConfig

if TYPE_CHECKING:
    import openvino as ov

_HEAVY = ("Convolution", "GroupConvolution", "MatMul")
_BETWEEN = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
"""What may lie between rounding and a product: a change of scale (DequantizeLinear) or of shape."""
_LEVELS = 256
_SMALLEST = 1e-30
"""Probabilities are at least this before the logarithm: a softmax does underflow to 0, and the logarithm must not."""


def is_quantized(model: "ov.Model") -> bool:
    """Whether most of its convolutions and products take numbers that are rounded to 8 bits: they run in int8.

    So NNCF leaves a graph, and so OpenVINO reads ONNX's QuantizeLinear.
    """
    heavy = [node for node in model.get_ops() if node.get_type_name() in _HEAVY]
    return bool(heavy) and 2 * sum(map(_takes_rounded, heavy)) >= len(heavy)


def _takes_rounded(node: "ov.Node") -> bool:
    source = node.input_value(0).get_node()
    while source.get_type_name() in _BETWEEN:
        source = source.input_value(0).get_node()
    return bool(source.get_type_name() == "FakeQuantize" and source.get_attributes()["levels"] <= _LEVELS)


def dynamic_batch(model: "ov.Model", path: Path, layout: str, image: ImageSpec) -> None:
    """Gives ``model``, in place, a batch of any size and the other dimensions of ``image``.

    Raises:
        TrainingError: the graph holds the size of the batch that it was exported with.
    """
    import openvino as ov

    side, channels = image.crop, image.channels
    shape = [-1, channels, side, side] if layout == "NCHW" else [-1, side, side, channels]
    fixed = f"{path}: the size of its batch is fixed inside the graph; export it again with a batch of any size"
    try:
        model.reshape({model.inputs[0]: ov.PartialShape(shape)})
    except RuntimeError as error:
        raise TrainingError(fixed) from error
    output = model.outputs[0].partial_shape
    if output.rank.is_dynamic or len(output) < 2:
        raise TrainingError(f"{path}: its output has the shape {output}; expected batch and classes")
    if output[0].is_static:
        raise TrainingError(f"{fixed} (its output has the shape {output})")


def logits_of(model: "ov.Model", config: ImportConfig, labels: int) -> "ov.Model":
    """The same model with an output of float32 logits (N, classes).

    Args:
        model: with one output of shape (N, classes), whatever empty dimensions follow.
        config: whether it gives logits or probabilities.
        labels: with two of them, a single output is that of the second one.

    Raises:
        TrainingError: the output has another shape, or the graph ends in a softmax though ``config`` says logits.
    """
    import openvino as ov
    import openvino.opset13 as ops

    shape = model.outputs[0].partial_shape
    value = model.outputs[0].get_node().input_value(0)
    last = value.get_node().get_type_name()
    if config.output == "logits" and last in ("Softmax", "Sigmoid"):
        raise TrainingError(f"{config.model}: ends in a {last}, which gives probabilities; say --output probabilities")
    if any(dimension.is_dynamic or dimension.get_length() != 1 for dimension in list(shape)[2:]):
        raise TrainingError(f"{config.model}: its output has the shape {shape}; expected batch and classes")
    if len(shape) > 2:
        value = ops.reshape(value, [0, -1], special_zero=True).output(0)
    value = ops.convert(value, "f32").output(0)
    single = labels == 2 and shape[1].is_static and shape[1].get_length() == 1
    if config.output == "probabilities":
        if single:
            value = ops.concat([ops.subtract(ops.constant(np.float32(1)), value), value], axis=1).output(0)
        value = ops.log(ops.maximum(value, ops.constant(np.float32(_SMALLEST)))).output(0)
    elif single:
        # One logit is the log-odds of the second class: the softmax of (0, z) is the sigmoid of z.
        value = ops.concat([ops.subtract(value, value), value], axis=1).output(0)
    return ov.Model([ops.result(value)], model.get_parameters(), model.get_friendly_name())


def pixels_in(model: "ov.Model", layout: str, image: ImageSpec) -> "ov.Model":
    """The same model with an input of uint8 pixels (N, H, W, C), normalised inside.

    Args:
        model: takes normalised numbers in ``layout``.
        layout: ``NCHW`` or ``NHWC``.
        image: mean and standard deviation, for white = 1.
    """
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    taken = model.inputs[0].element_type
    processor = PrePostProcessor(model)
    entry = processor.input()
    entry.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    entry.model().set_layout(ov.Layout(layout))
    steps = entry.preprocess().convert_element_type(ov.Type.f32)
    # Mean before scale, as PrePostProcessor runs its steps in the order of these calls.
    steps.mean([255 * value for value in image.mean]).scale([255 * value for value in image.std])
    steps.convert_element_type(taken)
    return processor.build()
