"""Number formats of tensors by the names that variants have for them."""

import torch

NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "int8",
}
"""Type -> precision, as in :data:`marquee.handlers.core.spec.Precision`."""


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in a type that numpy has: half precision as float32, all others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
