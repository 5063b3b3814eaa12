"""Reads a fitted estimator from a file of skops, which runs no code: every type in it must be one that is known."""

import importlib.metadata
import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marquee.training.core.errors import TrainingError
from marquee.training.importing.scikit_config import PICKLES, SUFFIXES

TRUSTED = (
    "numpy.dtype",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
"""Types that are loaded beside those that skops trusts itself, which are scikit-learn's estimators and functions of
numpy. A dtype describes numbers (in a SimpleImputer); the optimisers hold those of an MLPRegressor's training. None of
them runs code that a file brings."""
MAX_BYTES = 1 << 30
"""Size of the unpacked file above which it is refused."""
_SAVE = 'where the model was fitted, run skops.io.dump(model, "model.skops"), and import that file'


def load_estimator(path: Path) -> Any:
    """Loads the estimator.

    Raises:
        TrainingError: the file is a pickle, is no file of skops, or has types that are not known; or skops is missing.
    """
    check_suffix(path)
    if not path.is_file():
        raise TrainingError(f"--model {path}: no such file")
    try:
        import skops.io
    except ImportError as error:
        raise TrainingError(f"{path}: needs skops, which is not installed; pip install 'marquee[sklearn]'") from error
    try:
        _check_size(path)
        if unknown := sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED)):
            raise TrainingError(
                f"{path}: {_place_of(path, unknown)}: has types that are not loaded, since they are not known to be "
                f"safe: {', '.join(unknown)}; no model that can be imported needs them (see docs/importing.md)"
            )
        with warnings.catch_warnings():
            # Of a file that another version of scikit-learn wrote. Its predictions are compared anyway.
            warnings.simplefilter("ignore")
            return skops.io.load(path, trusted=list(TRUSTED))
    except TrainingError:
        raise
    except (Exception, RecursionError) as error:
        # skops raises exceptions of any type for files that it did not write.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise TrainingError(f"{path}: not readable as a file of skops ({reason}); {_SAVE}") from error


def check_suffix(path: Path) -> None:
    """Raises TrainingError for a pickle, which is never opened, and for files of another kind."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise TrainingError(f"--model {path}: a pickle ({suffix}) runs code when it is loaded, so it is not; {_SAVE}")
    if suffix not in SUFFIXES:
        raise TrainingError(f"--model {path}: expected a file of skops ({', '.join(SUFFIXES)}); {_SAVE}")


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_BYTES:
        raise TrainingError(f"{path}: unpacks to {size >> 20} MiB; files of at most {MAX_BYTES >> 20} MiB are read")


def _place_of(path: Path, types: Sequence[str]) -> str:
    """The estimators that the first of these types is in, the outermost first."""
    with zipfile.ZipFile(path) as archive:
        nodes: list[tuple[Any, tuple[str, ...]]] = [(json.loads(archive.read("schema.json")), ())]
    while nodes:
        node, inside = nodes.pop()
        if isinstance(node, dict):
            name = f"{node.get('__module__')}.{node.get('__class__')}"
            if name in types:
                return " > ".join(inside) or name
            if node.get("__loader__") == "ObjectNode":
                inside = (*inside, str(node.get("__class__")))
            node = list(node.values())
        if isinstance(node, list):
            nodes += [(one, inside) for one in reversed(node)]
    return "the model"


def library() -> str:
    """The versions that read the file."""
    versions = {name: importlib.metadata.version(name) for name in ("scikit-learn", "skops")}
    return ", ".join(f"{name} {version}" for name, version in versions.items())
