"""Changes to a converted model's graph, so that it takes the served pixels and outputs logits."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.importing.config import ImportConfig

if TYPE_CHECKING:
    import openvino as ov

_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_TRANSPARENT = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
"""Operations allowed between rounding and a product: changes of scale (DequantizeLinear) or of shape."""
_LEVELS = 256
_SMALLEST = 1e-30
"""Lower bound of probabilities before the logarithm, which is infinite where a softmax has underflowed to 0."""


def is_quantized(model: "ov.Model") -> bool:
    """Whether at least half of the convolutions and matrix products have inputs rounded to 8 bits: they run in int8.

    Both NNCF and OpenVINO's reader for ONNX's QuantizeLinear produce such graphs.
    """
    products = [node for node in model.get_ops() if node.get_type_name() in _PRODUCTS]
    return bool(products) and 2 * sum(map(_has_quantized_input, products)) >= len(products)


def _has_quantized_input(node: "ov.Node") -> bool:
    source = node.input_value(0).get_node()
    while source.get_type_name() in _TRANSPARENT:
        source = source.input_value(0).get_node()
    return bool(source.get_type_name() == "FakeQuantize" and source.get_attributes()["levels"] <= _LEVELS)


def dynamic_batch(model: "ov.Model", path: Path, layout: str, image: ImageSpec) -> None:
    """Gives the input of ``model``, in place, a dynamic batch size and the other dimensions of ``image``.

    Raises:
        TrainingError: the batch size is fixed inside the graph, or the output is not (batch, classes).
    """
    import openvino as ov

    side, channels = image.crop, image.channels
    shape = [-1, channels, side, side] if layout == "NCHW" else [-1, side, side, channels]
    message = f"{path}: the size of its batch is fixed inside the graph; export it again with a dynamic batch size"
    try:
        model.reshape({model.inputs[0]: ov.PartialShape(shape)})
    except RuntimeError as error:
        raise TrainingError(message) from error
    output = model.outputs[0].partial_shape
    if output.rank.is_dynamic or len(output) < 2:
        raise TrainingError(f"{path}: its output has the shape {output}; expected batch and classes")
    if output[0].is_static:
        raise TrainingError(f"{message} (its output has the shape {output})")


def with_logits(model: "ov.Model", config: ImportConfig, labels: int) -> "ov.Model":
    """The same model with an output of float32 logits (N, classes).

    Args:
        model: a model with one output of shape (N, classes), optionally followed by dimensions of size 1.
        config: says whether the model outputs logits or probabilities.
        labels: number of labels; if there are two, a single output belongs to the second.

    Raises:
        TrainingError: the output has another shape, or the graph ends in a softmax or sigmoid although ``config`` says
            logits.
    """
    import openvino as ov
    import openvino.opset13 as ops

    shape = model.outputs[0].partial_shape
    value = model.outputs[0].get_node().input_value(0)
    last = value.get_node().get_type_name()
    if config.output == "logits" and last in ("Softmax", "Sigmoid"):
        raise TrainingError(f"{config.model}: ends in a {last}, which gives probabilities; use --output probabilities")
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


def with_pixel_input(model: "ov.Model", layout: str, image: ImageSpec, order: str) -> "ov.Model":
    """The same model with an input of uint8 pixels (N, H, W, C), which it normalises itself.

    Args:
        model: a model that takes normalised values in ``layout``.
        layout: ``NCHW`` or ``NHWC``.
        image: mean and standard deviation, for white = 1.
        order: ``bgr`` if the model takes blue first, else ``rgb``.
    """
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    input_type = model.inputs[0].element_type
    processor = PrePostProcessor(model)
    entry = processor.input()
    entry.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    entry.model().set_layout(ov.Layout(layout))
    steps = entry.preprocess().convert_element_type(ov.Type.f32)
    # PrePostProcessor runs its steps in the order of these calls: mean before scale.
    steps.mean([255 * value for value in image.mean]).scale([255 * value for value in image.std])
    if order == "bgr":
        steps.reverse_channels()
    steps.convert_element_type(input_type)
    return processor.build()
