"""What ``marquee serve`` takes when nothing else is said."""

from pathlib import Path

from marquee.serving.errors import OperationError

DEFAULT_STATE = Path(".torchserve")
"""Folder for process, tokens and logs."""
DEFAULT_CONFIG = Path("config.properties")
"""TorchServe settings: this file of the current folder where there is one, else :data:`PACKAGED_CONFIG`."""
PACKAGED_CONFIG = Path(__file__).absolute().parent.parent / "config.properties"
"""The settings that come with Marquee."""
DEFAULT_STORE = Path("model_store")


def find_config(config: Path = DEFAULT_CONFIG) -> Path:
    """The settings file that ``config`` stands for.

    Raises:
        OperationError: a file was named and is not there.
    """
    if Path(config).is_file():
        return Path(config)
    if Path(config) == DEFAULT_CONFIG:
        return PACKAGED_CONFIG
    raise OperationError(f"{config}: no such file; name TorchServe settings with --config, or leave it out")


def find_store(config: Path, properties: dict[str, str]) -> Path:
    """The folder of archives that TorchServe settings name, absolute.

    A relative one is relative to their file, as for a plain ``torchserve --start`` in that folder; with the packaged
    settings it is relative to the current folder.
    """
    folder = Path.cwd() if Path(config) == PACKAGED_CONFIG else Path(config).absolute().parent
    return (folder / properties.get("model_store", DEFAULT_STORE)).absolute()
