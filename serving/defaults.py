"""Defaults of ``marquee serve``."""

from pathlib import Path

from marquee.serving.errors import OperationError

DEFAULT_STATE = Path(".torchserve")
"""Folder for the process record, tokens and logs."""
DEFAULT_CONFIG = Path("config.properties")
"""TorchServe settings: this file in the current folder if it exists, else :data:`PACKAGED_CONFIG`."""
PACKAGED_CONFIG = Path(__file__).absolute().parent.parent / "config.properties"
"""The settings that Marquee comes with."""
DEFAULT_STORE = Path("model_store")


def find_config(config: Path = DEFAULT_CONFIG) -> Path:
    """The settings file to use for ``config``.

    Raises:
        OperationError: the named file does not exist.
    """
    if Path(config).is_file():
        return Path(config)
    if Path(config) == DEFAULT_CONFIG:
        return PACKAGED_CONFIG
    raise OperationError(f"{config}: no such file; name TorchServe settings with --config, or leave it out")


def find_store(config: Path, properties: dict[str, str]) -> Path:
    """The absolute path of the model store that TorchServe settings name.

    A relative path is resolved from the folder of the settings file, as for a plain ``torchserve --start`` in that
    folder; with the packaged settings, from the current folder.
    """
    return (settings_folder(config) / properties.get("model_store", DEFAULT_STORE)).absolute()


def settings_folder(config: Path) -> Path:
    """The folder from which relative paths in TorchServe settings start."""
    return Path.cwd() if Path(config) == PACKAGED_CONFIG else Path(config).absolute().parent
