"""Gradients of kernel taps that only see padding."""

from itertools import product

import pytest
import torch
from torch import nn

from marquee.training.tasks.image_classification.config import ImageConfig, ModelConfig
from marquee.training.tasks.image_classification.models import Classifier, create_backbone
from marquee.training.workarounds.unread_taps import UnreadTaps, unread_taps


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 5), (3, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (2, 1)])
def test_are_those_whose_gradient_is_zero(kernel, padding):
    tried = 0
    for stride, dilation, *size in product(((1, 1), (2, 3), (3, 2)), ((1, 1), (2, 1)), (1, 2, 6), (1, 3, 5)):
        convolution = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
        try:
            output = convolution(torch.ones(1, 1, *size))
        except RuntimeError:  # the kernel is larger than the map
            continue
        output.sum().backward()
        unread = unread_taps(kernel, stride, padding, dilation, size)
        assert torch.equal(unread, convolution.weight.grad[0, 0] == 0)
        tried += 1
    assert tried


def fill_free_memory_with_nan() -> None:
    blocks = [torch.full((size,), float("nan")) for size in (100, 1000, 10_000, 100_000, 1_000_000) for _ in range(8)]
    del blocks


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.slow
def test_a_step_on_tiny_maps_has_finite_gradients(channels_last):
    """On a CPU with bf16 instructions, most of these passes leave a NaN without the workaround."""
    torch.manual_seed(0)
    backbone = create_backbone(ModelConfig(arch="test_resnet"), ImageConfig(size=16), 3, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = Classifier(backbone, [0.5], [0.2]).to(memory_format=layout).train()
    taps = UnreadTaps(model, 1)
    for _ in range(8):
        fill_free_memory_with_nan()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(torch.randint(256, (32, 16, 16, 1), dtype=torch.uint8))
        fill_free_memory_with_nan()
        logits.float().logsumexp(1).sum().backward()
        taps.clear(16)
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), name
        model.zero_grad()


def backbone_of(arch: str, size: int) -> nn.Module:
    return create_backbone(ModelConfig(arch=arch), ImageConfig(size=size), 3, 1)


def padded_by_other_means() -> nn.Module:
    """Kernels of 5 on maps of 2x2 whose padding is a module's, the map itself or the operator's."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(1, 4, 5, padding=2, padding_mode="circular"),
        nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(4, 4, 5, padding=2, padding_mode="replicate"),
        nn.ZeroPad2d(2),
        nn.Conv2d(4, 4, 5),
        nn.Conv2d(4, 4, (2, 3), padding="same", dilation=2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        pytest.param(lambda: backbone_of("test_resnet", 16), 16, id="test_resnet"),
        # Pads in its forward pass, what its convolutions' attributes do not say.
        pytest.param(lambda: backbone_of("tf_efficientnet_lite0", 64), 64, id="tf_efficientnet_lite0"),
        pytest.param(padded_by_other_means, 16, id="other paddings"),
    ],
)
def test_other_gradients_are_left_alone(backbone, size):
    torch.manual_seed(0)
    model = Classifier(backbone(), [0.5], [0.2])
    model(torch.randint(256, (4, size, size, 1), dtype=torch.uint8)).logsumexp(1).sum().backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    UnreadTaps(model, 1).clear(size)
    assert all(torch.equal(before[name], parameter.grad) for name, parameter in model.named_parameters())


def test_maps_that_are_large_enough_have_no_unread_taps():
    model = Classifier(backbone_of("test_resnet", 16), [0.5], [0.2])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    UnreadTaps(model, 1).clear(64)
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
