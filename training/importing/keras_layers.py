"""Layers as older releases of Keras saved them, with settings that today's do not know."""

from types import ModuleType
from typing import Any

_NAMES = (
    "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
    "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
)  # fmt: skip
"""Layers that inherited the setting ``groups`` in Keras 2, without any use for it."""


def older_layers(keras: ModuleType) -> dict[str, Any]:
    """Class name -> class, for ``custom_objects``: layers that accept ``groups`` where it is 1.

    Teachable Machine's ``keras_model.h5`` is the best-known file that has it.
    """
    return {name: _with_groups(getattr(keras.layers, name)) for name in _NAMES}


def _with_groups(layer: Any) -> Any:
    class Older(layer):  # type: ignore[misc]
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            config = dict(config)
            groups = config.pop("groups", 1)
            if groups != 1:
                raise ValueError(
                    f"{layer.__name__} {config.get('name')!r} has groups {groups}, which Keras 3 does not know"
                )
            return layer.from_config(config)

    return Older
