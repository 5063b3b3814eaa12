"""Folders that are no data set of class folders, though they can be read as one: which folder was likely meant."""

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from marquee.training.core.errors import DataError
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.classification.names import listed
from marquee.training.tasks.image_classification.data.listing import (
    SPLIT_ALIASES,
    ClassFolder,
    Listing,
    files_in,
    list_folder,
    subfolders,
)
from marquee.training.tasks.image_classification.data.table import PARQUET_SUFFIXES, TEXT_SUFFIXES

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_WAY_OUT = "if they are the classes, add --checks.layout allow"
_SPLIT_WORD = re.compile(
    r"(?:^|[\s_.-])(train|training|test|testing|val|valid|validation|dev|eval|evaluation|holdout)"
    r"(?:set|data|images|ing)?(?:$|[\s_.\d-])",
    re.IGNORECASE,
)
_MEANT = {**SPLIT_ALIASES, "eval": "val", "evaluation": "val", "holdout": "test"}
_FOLD = re.compile(r"(?:k?-?folds?|cv|splits?)[\s_.-]*\d+|\d+[\s_.-]*folds?", re.IGNORECASE)
_IMAGES = re.compile(r"(?:jpeg|jpg|png|rgb|raw|input|source)?[\s_-]*(?:images?|imgs?|photos?|pictures?|frames?)", re.I)
_ANNOTATIONS = re.compile(
    r"(?:(?:seg(?:mentation)?|pixel|binary|gt|instance|image|train|test|val)[\s_-]*)?"
    r"(?:masks?|labels?|annotations?|annots?|ground[\s_-]?truths?|gts?|seg(?:mentation)?s?(?:class|object)?|"
    r"b(?:ounding[\s_-]?)?box(?:es)?|xmls?|jsons?|imagesets?|trimaps?|targets?)",
    re.IGNORECASE,
)


def not_a_folder(data: Path) -> DataError:
    """The error for a data set that is neither a folder nor a table."""
    if not data.exists():
        return DataError(f"{data}: no such folder (or .csv or .parquet table)")
    if data.suffix.lower() in _ARCHIVES or zipfile.is_zipfile(data):
        return DataError(f"{data}: is an archive; unpack it, and name the folder that has the class folders")
    expected = ", ".join((*TEXT_SUFFIXES, *PARQUET_SUFFIXES))
    return DataError(f"{data}: is a file; expected a folder of class folders, or a table ({expected})")


def too_few_classes(data: Path, listing: Listing) -> str:
    """Which folder was likely meant where class folders are missing, or there is only one; empty if that is not known.

    Args:
        data: the folder.
        listing: of it.
    """
    if meant := _lower(data):
        return f"; its only folder has folders of its own; did you mean --data {meant}?"
    if listing.classes:
        return _table_beside(data)
    if archives := [path.name for path in files_in(data) if path.suffix.lower() in _ARCHIVES]:
        return f"; unpack {archives[0]} first"
    flat = [one for one in listing.strays if one.split]
    if flat:
        split = Path(flat[0].path).parent
        return f"; {len(flat):,} files lie directly in {split}, which has no class folders" + _table_beside(data)
    if listing.strays and (table := _table_beside(data)):
        return table
    parent = data.parent
    if listing.strays and len(subfolders(parent)) > 1:
        return (
            f"; its {len(listing.strays):,} files lie directly in it; if it is the folder of one class, did you mean "
            f"--data {parent}?"
        )
    return ""


def _lower(data: Path) -> Path | None:
    """The folder further down that has several folders, where each on the way to it has only one."""
    folder, seen = data, {data.resolve()}
    while len(children := subfolders(folder)) == 1:
        folder = children[0]
        if folder.resolve() in seen:
            return None
        seen.add(folder.resolve())
    return folder if folder != data and children else None


def _table_beside(data: Path) -> str:
    tables = [path for path in files_in(data) if path.suffix.lower() in (".csv", ".tsv", *PARQUET_SUFFIXES)]
    if not tables:
        return ""
    return f"; if {tables[0].name} has the labels, name it: --data {tables[0]}, with the columns path,label"


def check_layout(data: Path, listing: Listing) -> None:
    """Raises DataError for folders that are likely no classes; the message names the folder that was likely meant."""
    if message := _no_classes(data, listing):
        raise DataError(f"{data}: {message}; {_WAY_OUT}")


def level_lines(listing: Listing) -> list[str]:
    """A line if all images lie in subfolders of the class folders: what these mean, only people know."""
    inside = [one for one in listing.classes if len(one.subfolders) > 1]
    if not inside or any(one.direct for one in listing.classes):
        return []
    example = f"{inside[0].path.name}/{inside[0].subfolders[0]}"
    return [
        f"warning: the class folders hold folders, such as {example}, and no images of their own; these count as "
        f"images of {inside[0].label!r}; if images of a folder belong together, as those of a patient or a scene do, "
        "use a table with the column group"
    ]


def check_known(data: Path, found: Iterable[str], known: Collection[str]) -> None:
    """Raises DataError for classes that a model does not know where another folder was likely meant.

    Args:
        data: a folder.
        found: its classes.
        known: those of the model.
    """
    unknown = sorted(set(found) - set(known))
    if not unknown:
        return
    meant = _lower(data)
    reason = f"did you mean --data {meant}?" if meant else _no_classes(data, list_folder(data))
    if reason:
        raise DataError(f"{data}: class {unknown[0]!r} is not one of the model's: {reason}")


def _no_classes(data: Path, listing: Listing) -> str:
    """Why the class folders are likely none; empty where they look like some."""
    looks: Sequence[Callable[[Path, Sequence[ClassFolder]], str]] = (_runs, _splits, _folds, _annotated, _same_inside)
    return next((text for look in looks if (text := look(data, listing.classes))), "")


def _names(classes: Sequence[ClassFolder]) -> list[str]:
    return sorted({one.path.name for one in classes})


def _runs(_: Path, classes: Sequence[ClassFolder]) -> str:
    run = next((one.path for one in classes if _is_run(one)), None)
    return f"{run} is the folder of a run, not of a class; move it out of the data set" if run else ""


def _is_run(one: ClassFolder) -> bool:
    folder = RunFolder(one.path)
    return {folder.manifest, folder.config} <= set(one.files)


def _splits(data: Path, classes: Sequence[ClassFolder]) -> str:
    """``training_set`` and ``test_set``."""
    names = _names(classes)
    words = {name: match[1].lower() for name in names if (match := _SPLIT_WORD.search(name))}
    meant = {name: _MEANT[word] for name, word in words.items()}
    if len(names) < 2 or len(words) < len(names) or len(set(meant.values())) < 2:
        return ""
    trains = [one.path for one in classes if meant[one.path.name] == "train"]
    inside = sorted({name for one in classes for name in one.subfolders})
    if len(names) > len(set(meant.values())):
        return (
            f"its folders {listed(names)} have the names of splits in them; put each class into a folder of its own "
            f"in {data / 'train'} and {data / 'test'}"
        )
    renamed = ", ".join(f"{name} to {split}" for name, split in meant.items() if name != split)
    rename = f"rename {renamed}" if renamed else f"add {data / 'train'}"
    if not inside:
        return f"{listed(names)} look like splits, not like classes, but hold no class folders; {rename}, and add them"
    alone = f", or name one of them: --data {trains[0]}" if trains else ""
    return f"{listed(names)} look like splits, not like classes; {rename}{alone}"


def _folds(_: Path, classes: Sequence[ClassFolder]) -> str:
    """``fold1`` to ``fold5``."""
    names = _names(classes)
    if len(names) < 2 or not all(_FOLD.fullmatch(name) for name in names):
        return ""
    return (
        f"{listed(names)} look like folds of a cross-validation, not like classes; name one of them "
        f"(--data {classes[0].path}), or a table with path,label,split; marquee select makes folds of its own"
    )


def _annotated(_: Path, classes: Sequence[ClassFolder]) -> str:
    """``images`` and ``masks``."""
    names = _names(classes)
    images = [one for one in classes if _IMAGES.fullmatch(one.path.name)]
    others = [name for name in names if _ANNOTATIONS.fullmatch(name)]
    if not images or not others or len({one.path.name for one in images}) + len(others) < len(names):
        return ""
    if len(images[0].subfolders) > 1:
        return f"{listed(names)} are images and their annotations, not classes; did you mean --data {images[0].path}?"
    return (
        f"{listed(names)} look like images with masks or annotations, not like classes; the images are in "
        f"{images[0].path}, but lack class folders: sort them into some, or name a table with path,label"
    )


def _same_inside(data: Path, classes: Sequence[ClassFolder]) -> str:
    """Folders that all hold the same folders, and no images of their own: the classes are likely one level further."""
    if len(_names(classes)) < 2 or any(one.direct for one in classes):
        return ""
    counts = Counter(name for one in classes for name in one.subfolders)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(shared) < 2 or len(shared) < len(counts) / 2:
        return ""
    names = _names(classes)
    if all(name.lower() in _MEANT for name in shared):
        example = data / SPLIT_ALIASES.get(shared[0].lower(), "test") / names[0]
        return f"{listed(names)} hold the folders of splits, {listed(shared)}; it is the other way round: {example}"
    return (
        f"{listed(names)} hold no images but the same folders, {listed(shared)}, which are likely the classes; did you "
        f"mean --data {classes[0].path}?"
    )
