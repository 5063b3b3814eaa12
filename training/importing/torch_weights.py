"""Converts a state dict of a timm or torchvision architecture into an exported program."""

import difflib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.spec import PIXELS
from marquee.training.core.errors import TrainingError
from marquee.training.core.export import MODEL_FILE, compare_with_eager, export_program
from marquee.training.importing.checkpoint import load_tensors
from marquee.training.importing.config import ImportConfig, InputDefaults, image_spec
from marquee.training.importing.fitting import Found, find_weights
from marquee.training.importing.labels import check_count
from marquee.training.importing.ready import ReadyModel
from marquee.training.tasks.image_classification.models import Classifier, architectures, check_size
from marquee.training.tasks.image_classification.pretrained import StateDict, rename_efficientnet_lite0

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th")
"""``.tar`` is that of ``.pth.tar``, which is a file of torch.save."""
_TORCHVISION = InputDefaults(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""torchvision's normalisation, unless the documentation of particular weights says otherwise."""
_NAMED = 3
"""Number of keys of each kind that an error message lists."""


def prepare(config: ImportConfig, labels: tuple[str, ...]) -> ReadyModel:
    """Builds the architecture with its normalisation and loads the weights.

    Raises:
        TrainingError: the architecture is unknown, or the weights cannot be read or not all of them fit.
    """
    if config.arch is None:
        raise TrainingError(f"{config.model}: a file of weights does not state the architecture; give it with --arch")
    if config.output != "logits":
        raise TrainingError(
            f"--output {config.output}: the architectures of {config.library} give logits; leave --output out"
        )
    _check_arch(config.arch, config.library)
    groups = load_tensors(config.model)
    # `efficientnet_lite0` has the same shapes but pads differently: it would load these weights and give wrong outputs.
    if config.arch.partition(".")[0] == "tf_efficientnet_lite0":
        groups = {place: rename_efficientnet_lite0(state) for place, state in groups.items()}
    image = image_spec(config, _defaults(config))
    backbone = _create(config, len(labels), image.crop)
    found = find_weights(config.model, groups, backbone.state_dict(), config.weights_key)
    _fill(backbone, found, config, labels)
    backbone.float().eval()
    network = Bgr(backbone).eval() if config.channel_order == "bgr" else backbone
    model = Classifier(network, image.mean, image.std).eval()

    def normalised(mean: Sequence[float], std: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
        other = Classifier(network, mean, std).eval()

        @torch.inference_mode()
        def logits(pixels: np.ndarray) -> np.ndarray:
            return other(torch.from_numpy(pixels)).numpy()  # type: ignore[no-any-return]

        return logits

    def write(folder: Path) -> list[str]:
        export_program(model, image, folder / MODEL_FILE)
        return [MODEL_FILE]

    def compare(predictor: Predictor, pixels: np.ndarray) -> dict[str, Any]:
        return {"largest_difference": compare_with_eager(model, predictor, {PIXELS: pixels})}

    return ReadyModel(
        image=image,
        engine="exported",
        device="any",
        write=write,
        compare=compare,
        normalised=normalised,
        facts={
            "format": "state dict",
            "architecture": config.arch,
            "library": f"{config.library} {importlib.metadata.version(config.library)}",
            **({"weights": found.place} if found.place else {}),
            **({"left_out": list(found.others)} if found.others else {}),
        },
    )


class Bgr(nn.Module):
    """A network that gets its channels in the reverse order.

    Args:
        network: takes (N, 3, H, W), blue first.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised (N, 3, H, W), red first -> what the network gives."""
        outputs: torch.Tensor = self.network(images.flip(1))
        return outputs


def _check_arch(arch: str, library: str) -> None:
    timm = architectures()
    names = timm.list_models() if library == "timm" else _torchvision_models()
    if arch in names or (library == "timm" and timm.is_model(arch)):
        return
    near = difflib.get_close_matches(arch, names, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise TrainingError(f"--arch {arch}: {library} has no such architecture{hint}")


def _torchvision_models() -> list[str]:
    import torchvision.models  # slow to import, and not needed for timm

    return list(torchvision.models.list_models(module=torchvision.models))


def _defaults(config: ImportConfig) -> InputDefaults:
    if config.library == "torchvision":
        return _TORCHVISION
    pretrained = architectures().get_pretrained_cfg(str(config.arch))
    if pretrained is None:
        return InputDefaults()
    return InputDefaults(
        size=pretrained.input_size[-1],
        crop_pct=pretrained.crop_pct,
        mean=tuple(pretrained.mean),
        std=tuple(pretrained.std),
        interpolation="bilinear" if pretrained.interpolation == "bilinear" else "bicubic",
    )


def _create(config: ImportConfig, classes: int, size: int) -> nn.Module:
    create = _create_timm if config.library == "timm" else _create_torchvision
    try:
        network = create(str(config.arch), classes, config.channels, size)
    except TrainingError:
        raise
    except Exception as error:
        # Model builders raise exceptions of any type for a size that they do not support.
        raise TrainingError(f"--arch {config.arch} with {size} pixels and {classes} labels: {error}") from error
    check_size(network, f"--arch {config.arch}", size, config.channels)
    return network


def _create_timm(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    timm = architectures()
    pretrained = timm.get_pretrained_cfg(arch)
    if pretrained is not None and pretrained.fixed_input_size:
        options["img_size"] = size
    module: nn.Module = timm.create_model(arch, **options)
    return module


def _create_torchvision(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    import torchvision.models

    if channels != 3:
        raise TrainingError(f"--channels {channels}: torchvision's architectures take 3 channels")
    options: dict[str, Any] = {"image_size": size} if arch.startswith("vit_") else {}
    build: Callable[..., nn.Module] = torchvision.models.get_model
    return build(arch, weights=None, num_classes=classes, **options)


def _fill(network: nn.Module, found: Found, config: ImportConfig, labels: tuple[str, ...]) -> None:
    """Loads the weights into ``network``; raises TrainingError unless all keys and shapes match."""
    target, state = network.state_dict(), found.state
    missing = found.missing(target)
    unknown = [key for key in state if key not in target]
    mismatched = [key for key in target if key in state and target[key].shape != state[key].shape]
    heads = {state[key].shape[0] for key in mismatched if _is_head(target[key], state[key], len(labels))}
    if len(heads) == 1 and not missing and not unknown:
        check_count(config.labels, labels, heads.pop())
    if missing or unknown or mismatched:
        shapes = [f"{key} {tuple(state[key].shape)} instead of {tuple(target[key].shape)}" for key in mismatched]
        kinds = ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
        problems = (f"{len(keys)} {kind} ({', '.join(keys[:_NAMED])})" for keys, kind in kinds if keys)
        place = f" under {found.place}" if found.place else ""
        raise TrainingError(
            f"{config.model}: does not fit {config.library}'s {config.arch} for {len(labels)} labels{place}: "
            f"{', '.join(problems)}{_hint(state)}"
        )
    network.load_state_dict(state, strict=False)


def _hint(state: StateDict) -> str:
    if any(".embeddings." in key or ".encoder." in key or key.startswith(("embeddings.", "encoder.")) for key in state):
        return "; if it is a model of transformers, export it to ONNX, since its weights have other names"
    return ""


def _is_head(target: torch.Tensor, loaded: torch.Tensor, classes: int) -> bool:
    """Whether the tensors differ only in the number of classes."""
    return target.dim() == loaded.dim() > 0 and target.shape[0] == classes and target.shape[1:] == loaded.shape[1:]
