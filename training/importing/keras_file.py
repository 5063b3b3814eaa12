"""A Keras file -> a form that OpenVINO reads, by Keras itself."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from marquee.training.errors import TrainingError
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.converted import prepare
from marquee.training.importing.ready import ReadyModel

SUFFIXES = (".keras", ".h5", ".hdf5")
SAFE_SINCE = (3, 12)
"""Older releases run code from crafted files though they are told not to (CVE-2025-9905: safe_mode and .h5)."""


@contextmanager
def prepared(config: ImportConfig, labels: tuple[str, ...]) -> Iterator[ReadyModel]:
    """Exports the file with Keras; what it wrote lives as long as the block.

    Raises:
        TrainingError: Keras is not installed or too old, or it cannot load or export the file; or as
            :func:`marquee.training.importing.converted.prepare`.
    """
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        exported, version = _export(config.model, Path(temporary))
        try:
            ready = prepare(replace(config, model=exported), labels)
        except TrainingError as error:
            raise TrainingError(str(error).replace(str(exported), str(config.model))) from error
        facts = {"format": "Keras", "library": f"keras {version}, {ready.facts['library']}"}
        yield replace(ready, facts={**ready.facts, **facts})


def _export(path: Path, folder: Path) -> tuple[Path, str]:
    """Writes an OpenVINO IR into ``folder``; returns its path and Keras's version."""
    # The backend that keeps the input's shape: with torch every dimension of the exported input is unknown.
    os.environ["KERAS_BACKEND"] = "openvino"
    try:
        import keras  # no dependency: whoever has a Keras file has Keras
    except ImportError as error:
        raise TrainingError(
            f"{path}: needs the package keras, which cannot be imported here ({error}); where the model was trained, "
            'run model.export("folder") and import that folder'
        ) from error
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) < SAFE_SINCE:
        raise TrainingError(f"{path}: Keras {keras.__version__} may run code from a file; pip install 'keras>=3.12'")
    target = folder / "model.xml"
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        model.export(str(target), format="openvino", verbose=False)
    except Exception as error:
        # Keras and its backend raise anything for files that they do not know.
        # The rest of a refusal advises to load the file without safe_mode.
        reason = ". ".join(" ".join(str(error).split()).split(". ")[:2])[:300]
        raise TrainingError(
            f"{path}: Keras {keras.__version__} with the backend {keras.backend.backend()} cannot export it: {reason}; "
            'where the model was trained, run model.export("folder") and import that folder'
        ) from error
    return target, str(keras.__version__)
