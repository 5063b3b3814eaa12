"""Reads what a start needs, and refuses what cannot be started, before anything is written."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from marquee.serving import launch
from marquee.serving.archive import check_archive
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE, find_config, find_store, settings_folder
from marquee.serving.launch import LOG_CONFIG, Launch
from marquee.serving.properties import refuse_open_inference_protocol, unknown_settings, with_absolute_paths
from marquee.serving.settings import read_addresses, read_properties
from marquee.serving.store import parse_references
from marquee.serving.trust import trust_of

logger = logging.getLogger(__name__)


def prepare(
    models: Sequence[str],
    *,
    config: Path = DEFAULT_CONFIG,
    store: Path | None = None,
    folder: Path = DEFAULT_STATE,
    port: int | None = None,
    python: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Launch:
    """What a start needs; nothing is written or started yet.

    Args:
        models: names of archives in the store, with or without ``.mar``, or ``NAME=VERSION``; none: the server starts
            empty. Of several versions of a model, the one that is named first is the default.
        config: TorchServe settings.
        store: folder of archives; the configuration's ``model_store`` when None.
        folder: the state folder.
        port: first of five consecutive ports, instead of the configuration's.
        python: interpreter of the server and its workers; this process's own when None.
        settings: keys of ``config.properties`` that override the configuration's.

    Raises:
        OperationError: an archive is damaged or absent, or the settings cannot be used.
    """
    folder = Path(folder).absolute()
    config = find_config(config)
    properties = read_properties(config) | dict(settings or {})
    for line in unknown_settings(properties):
        logger.warning(f"{config}: {line}")
    refuse_open_inference_protocol(config, properties)
    store = Path(store).absolute() if store is not None else find_store(config, properties)
    references = parse_references(models, store)
    for reference in references:
        check_archive(reference.find(store))
    addresses = read_addresses(properties)
    addresses = addresses if port is None else addresses.shifted(port)
    properties = {
        **with_absolute_paths(properties, settings_folder(config)),
        **addresses.as_properties(),
        "model_store": str(store),
        # A URI: TorchServe splits the arguments at spaces, and a path may contain some.
        "vmargs": properties.get("vmargs", "").replace("serving/log4j2.xml", LOG_CONFIG.as_uri()),
    }
    trust_of(properties)  # which it refuses where they cannot be used
    return Launch(
        folder=folder, properties=properties, models=references, store=store, python=python or launch.INTERPRETER
    )
