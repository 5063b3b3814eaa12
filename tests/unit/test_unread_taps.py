"""Gradients of kernel taps that only see padding."""

from itertools import product

import pytest
import torch
from torch import nn

from training.config import ImageConfig, ModelConfig
from training.models import Classifier, create_backbone
from training.unread_taps import UnreadTaps, unread_taps


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 1)])
@pytest.mark.parametrize("padding", [0, 1, 2, (2, 1), "same"])
def test_are_those_whose_gradient_is_zero(kernel, padding):
    tried = 0
    for stride, dilation, height, width in product((1, 2, 3), (1, 2), (1, 2, 4), (1, 3)):
        if padding == "same" and stride > 1:
            continue
        convolution = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
        try:
            output = convolution(torch.ones(1, 1, height, width))
        except RuntimeError:  # the kernel is larger than the map
            continue
        output.sum().backward()
        assert torch.equal(unread_taps(convolution, (height, width)), convolution.weight.grad[0, 0] == 0)
        tried += 1
    assert tried or (padding == 0 and kernel != 1)


def fill_free_memory_with_nan() -> None:
    blocks = [torch.full((size,), float("nan")) for size in (100, 1000, 10_000, 100_000, 1_000_000) for _ in range(8)]
    del blocks


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_step_on_tiny_maps_has_finite_gradients(channels_last):
    """On a CPU with bf16 instructions, most of these passes leave a NaN without the workaround."""
    torch.manual_seed(0)
    backbone = create_backbone(ModelConfig(arch="test_resnet"), ImageConfig(size=16), 3, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = Classifier(backbone, [0.5], [0.2]).to(memory_format=layout).train()
    taps = UnreadTaps(model)
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


def test_other_gradients_are_left_alone():
    torch.manual_seed(0)
    model = Classifier(create_backbone(ModelConfig(arch="test_resnet"), ImageConfig(size=16), 3, 1), [0.5], [0.2])
    model(torch.randint(256, (4, 16, 16, 1), dtype=torch.uint8)).logsumexp(1).sum().backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    UnreadTaps(model).clear(16)
    assert all(torch.equal(before[name], parameter.grad) for name, parameter in model.named_parameters())
    for parameter in model.parameters():
        parameter.grad.fill_(1)
    UnreadTaps(model).clear(64)
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
