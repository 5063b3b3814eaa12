"""The files of a folder of images: class by class, through links, each once."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.dataset import SPLITS
from marquee.training.core.errors import DataError
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.classification.names import canonical
from marquee.training.tasks.image_classification.data.manifest import Record

SPLIT_ALIASES = {
    **{name: name for name in SPLITS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
"""Name of a folder, or a word in a table, in lower case -> the split that it means."""
_NOT_CLASSES = ("__MACOSX", "@eaDir", "__pycache__")
"""Folders that archivers, file servers and Python leave behind."""
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")
NOT_IN_A_CLASS, EMPTY = "not in a class folder", "no files in this class folder"
ONLY_FOLDERS = "holds folders, but no files"
LOOP = "a link to a folder that contains it, which is not followed"


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """The folder of one class in one split."""

    path: Path
    label: str
    """Its name, as :func:`~marquee.training.tasks.classification.names.canonical` has it."""
    split: str
    """Empty where the data set defines none."""
    files: tuple[Path, ...]
    """All of its files, in subfolders and behind links, too; sorted."""
    direct: int
    """How many of them lie directly in it."""
    rejected: tuple[Rejected, ...]
    """What cannot be listed."""

    @property
    def subfolders(self) -> tuple[str, ...]:
        """Names of its own subfolders in which files lie."""
        below = (path.relative_to(self.path).parts for path in self.files)
        return tuple(sorted({parts[0] for parts in below if len(parts) > 1}))

    @property
    def records(self) -> list[Record]:
        """One for each file."""
        return [Record(str(path), self.label, self.split) for path in self.files]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The class folders of a data set, and what else lies beside them."""

    classes: tuple[ClassFolder, ...]
    strays: tuple[Rejected, ...]

    @property
    def items(self) -> list[Record | Rejected]:
        """All files, class by class."""
        items: list[Record | Rejected] = [*self.strays]
        for one in self.classes:
            items += [*one.records, *one.rejected]
        return items


def list_folder(data: Path) -> Listing:
    """The files of a data set in a folder.

    Args:
        data: a folder of class folders, or of ``train/`` and ``val/`` and/or ``test/`` with class folders.

    Raises:
        DataError: it is no folder, cannot be listed, or its splits cannot be told from its classes.
    """
    children = subfolders(data)
    splits: dict[str, Path] = {}
    others = []
    for child in children:
        split = SPLIT_ALIASES.get(child.name.lower())
        if split is None:
            others.append(child.name)
        elif split in splits:
            raise DataError(f"{data}: both {splits[split].name}/ and {child.name}/ mean {split}; keep one of them")
        else:
            splits[split] = child
    if "train" not in splits or (others and len(splits) == 1):  # `train` may be a class among others
        return _list_split(data, "")
    if others:
        kept = ", ".join(path.name for path in splits.values())
        raise DataError(f"{data}: {', '.join(others)} lies beside {kept}; move it out of the data set")
    found = [_list_split(folder, split) for split, folder in splits.items()]
    return Listing(
        classes=tuple(one for listing in found for one in listing.classes),
        strays=(*_strays(data, ""), *(one for listing in found for one in listing.strays)),
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, also behind links, but for hidden ones.

    Raises:
        DataError: it is no folder, or cannot be listed.
    """
    return [path for path, kind in _children(folder) if kind == "folder"]


def files_in(folder: Path) -> list[Path]:
    """The files that lie directly in a folder, but for hidden ones; a broken link is one, so that it is reported.

    Raises:
        DataError: as :func:`subfolders`.
    """
    return [path for path, kind in _children(folder) if kind in ("file", "broken")]


def _list_split(folder: Path, split: str) -> Listing:
    classes, strays = [], _strays(folder, split)
    for path in subfolders(folder):
        walk = _Walk(path)
        label = canonical(path.name) or path.name
        if not walk.files and not walk.rejected:
            reason = LOOP if walk.is_loop else ONLY_FOLDERS if subfolders(path) else EMPTY
            strays.append(Rejected(str(path), reason, label if reason == ONLY_FOLDERS else "", split))
            continue
        rejected = tuple(Rejected(str(bad), why, label, split) for bad, why in walk.rejected)
        direct = sum(file.parent == path for file in walk.files)
        one = ClassFolder(
            path=path, label=label, split=split, files=tuple(sorted(walk.files)), direct=direct, rejected=rejected
        )
        classes.append(one)
    return Listing(classes=tuple(classes), strays=tuple(strays))


def _strays(folder: Path, split: str) -> list[Rejected]:
    """Files next to the class folders; a link without a suffix that leads nowhere was meant to be one of these."""
    strays = []
    for path, kind in _children(folder):
        if kind in ("folder", "other"):
            continue
        is_class = kind != "file" and not _SUFFIX.fullmatch(path.suffix)
        reason = kind if kind not in ("file", "broken") else NOT_IN_A_CLASS
        if kind == "broken" and is_class:
            reason = "a link to a folder that does not exist"
        strays.append(Rejected(str(path), reason, canonical(path.name) if is_class else "", split))
    return strays


def _children(folder: Path) -> list[tuple[Path, str]]:
    """What a folder holds, sorted, with its kind (see :func:`_kind`)."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _kind(entry)) for entry in entries if not _is_hidden(entry.name))
    except NotADirectoryError as error:
        raise DataError(f"{folder}: is a file, not a folder") from error
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no such folder") from error
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from error
    return [(folder / name, kind) for name, kind in found]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_CLASSES


def _kind(entry: "os.DirEntry[str]") -> str:
    """``folder``, ``file``, ``broken`` (a link to nowhere), ``other`` (such as a socket), or why it is not known."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "broken" if entry.is_symlink() else "other"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"


class _Walk:
    """Lists the files below a folder.

    Links to folders are followed after all real folders were listed, so that a file that can be reached in two ways is
    listed where it lies. A folder is known by device and inode: it is listed once, and one that contains the class
    folder never.

    Args:
        folder: of a class.
    """

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.rejected: list[tuple[Path, str]] = []
        """What cannot be listed, and why."""
        self._links: list[Path] = []
        self._seen: dict[tuple[int, int], Path] = {}
        # By the path as it was given and by the real one: a link may lead to either chain of folders.
        self._above = {_identity(parent) for parent in (*folder.parents, *_real_parents(folder))} - {None}
        self.is_loop = _identity(folder) in self._above
        """Whether it is a link to a folder that contains it."""
        if not self.is_loop:
            self._visit(folder)
        while self._links:
            self._follow(self._links.pop(0))

    def _follow(self, link: Path) -> None:
        identity = _identity(link)
        if identity in self._above:
            self.rejected.append((link, LOOP))
        elif identity is not None and (before := self._seen.get(identity)):
            self.rejected.append((link, f"a link to a folder that is listed already, {before}"))
        else:
            self._visit(link)

    def _visit(self, top: Path) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            if (identity := _identity(folder)) is not None:
                self._seen[identity] = folder
            try:
                children = _children(folder)
            except DataError as error:
                reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
                self.rejected.append((folder, f"unreadable: {reason}"))
                continue
            for path, kind in children:
                if kind == "folder":
                    (self._links if path.is_symlink() else waiting).append(path)
                elif kind in ("file", "broken"):
                    self.files.append(path)
                else:
                    self.rejected.append((path, "neither a file nor a folder" if kind == "other" else kind))


def _real_parents(folder: Path) -> Sequence[Path]:
    try:
        return folder.resolve().parents
    except (OSError, RuntimeError):  # a chain of links without an end
        return ()


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode, by which a folder is known under all of its names; None where it cannot be asked."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
