"""Exports a Keras file with Keras into a form that OpenVINO reads."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from marquee.training.core.errors import TrainingError
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.converted import prepare
from marquee.training.importing.keras_layers import older_layers
from marquee.training.importing.ready import ReadyModel

SUFFIXES = (".keras", ".h5", ".hdf5")
SAFE_SINCE = (3, 12)
"""Older releases run code from crafted .h5 files despite safe_mode (CVE-2025-9905)."""


@contextmanager
def prepared(config: ImportConfig, labels: tuple[str, ...]) -> Iterator[ReadyModel]:
    """Exports the file with Keras; the exported files are deleted at the end of the ``with`` block.

    Raises:
        TrainingError: Keras is not installed, too old, or cannot load or export the file; also those of
            :func:`marquee.training.importing.converted.prepare`.
    """
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        exported, version = _export(config.model, Path(temporary))
        try:
            # Keras's own readers of images resize both sides, whatever the shape.
            ready = prepare(replace(config, model=exported, fit=config.fit or "squash"), labels)
        except TrainingError as error:
            raise TrainingError(str(error).replace(str(exported), str(config.model))) from error
        facts = {"format": "Keras", "library": f"keras {version}, {ready.facts['library']}"}
        yield replace(ready, facts={**ready.facts, **facts})


def _export(path: Path, folder: Path) -> tuple[Path, str]:
    """Writes an OpenVINO IR into ``folder``; returns its path and Keras's version."""
    # This backend keeps the shape of the input; with torch, every dimension of the exported input is dynamic.
    os.environ["KERAS_BACKEND"] = "openvino"
    try:
        import keras  # not a dependency: whoever has a Keras file has Keras
    except ImportError as error:
        raise TrainingError(
            f"{path}: needs the package keras, which cannot be imported here ({error}); where the model was trained, "
            'run model.export("folder") and import that folder'
        ) from error
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) < SAFE_SINCE:
        raise TrainingError(f"{path}: Keras {keras.__version__} may run code from a file; pip install 'keras>=3.12'")
    target = folder / "model.xml"
    try:
        model = keras.saving.load_model(path, older_layers(keras), compile=False, safe_mode=True)
        model.export(str(target), format="openvino", verbose=False)
    except Exception as error:
        # Keras and its backends raise exceptions of any type for files that they cannot read. Only the first two
        # sentences are kept: the rest of the message advises loading the file without safe_mode.
        # Where a layer is at fault, its configuration comes first and what is wrong with it last.
        text = str(error).rpartition("Exception encountered: ")[2]
        reason = ". ".join(" ".join(text.split()).split(". ")[:2])[:300]
        if "No model config" in text:
            reason = "it has weights only, without the model; save the whole model with model.save"
        raise TrainingError(
            f"{path}: Keras {keras.__version__} with the backend {keras.backend.backend()} cannot export it: {reason}; "
            'where the model was trained, run model.export("folder") and import that folder'
        ) from error
    return target, str(keras.__version__)
