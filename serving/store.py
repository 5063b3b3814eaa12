"""The model store: ``NAME.mar`` is the version packaged last, ``NAME-VERSION.mar`` each of them."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marquee import hints
from marquee.serving.errors import OperationError

MANIFEST = "MAR-INF/MANIFEST.json"
_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model of the store, as commands name it: ``photos``, ``photos.mar`` or ``photos=1.0``."""

    name: str
    version: str | None = None
    """None: the version that was packaged last."""
    archive: str | None = None
    """File name in the store, of a model that was registered under another name than its archive's; None: as the name
    and the version say."""

    def __post_init__(self) -> None:
        # Names of files of any kind are allowed here: somebody else's archives may have them.
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"{self.name!r}: expected the name of an archive in the store, such as photos")
        if self.version is not None:
            check_version(self.version)

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """``NAME``, ``NAME.mar`` or ``NAME=VERSION``.

        Raises:
            OperationError: it is none of them.
        """
        name, equals, version = text.partition("=")
        try:
            return cls(name=name.removesuffix(".mar"), version=version if equals else None)
        except ValueError as error:
            raise OperationError(str(error)) from error

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}={self.version}"

    def find(self, store: Path) -> Path:
        """The archive's path; of a file that may be missing where no version is named.

        Raises:
            OperationError: the store does not have this version.
        """
        if self.archive is not None:
            return store / self.archive
        latest = store / f"{self.name}.mar"
        if self.version is None:
            return latest
        path = versioned(latest, self.version)
        if path.is_file():
            return path
        if identity(latest) == (self.name, self.version):
            return latest  # of an earlier Marquee, or copied there
        there = sorted(
            found[1]
            for path in store.glob(f"{self.name}*.mar")
            if (found := identity(path)) is not None and found[0] == self.name
        )
        raise OperationError(
            f"{store}: has no version {self.version} of {self.name}"
            + (f"; it has {', '.join(dict.fromkeys(there))}" if there else "")
            + f"; make it with: {hints.command('package', 'RUN', '--name', self.name, '--version', self.version)}"
        )


def parse_references(texts: Sequence[str], store: Path) -> list[Reference]:
    """The models that a command names.

    Raises:
        OperationError: one of them is no such name, or two are the same version of a model.
    """
    references = [Reference.parse(text) for text in texts]
    seen: dict[tuple[str, str | None], Reference] = {}
    for reference in references:
        found = identity(reference.find(store))
        key = (reference.name, found[1] if found else reference.version)
        if key in seen:
            version = f"version {key[1]}" if key[1] else "the same archive"
            raise OperationError(f"{seen[key]} and {reference}: both are {version} of {reference.name}; name it once")
        seen[key] = reference
    return references


def check_name(name: str) -> None:
    """Raises ValueError for a name that a model cannot have on the server."""
    _check(f"name {name!r}", name)


def check_version(version: str) -> None:
    """Raises ValueError for a version that a model cannot have on the server: it is part of URLs and of file names."""
    _check(f"version {version!r}", version)


def _check(subject: str, text: str) -> None:
    if not _ALLOWED.fullmatch(text):
        raise ValueError(
            f"{subject}: expected letters and digits, after the first one also '.', '_' and '-', and no other special "
            "characters"
        )


def versioned(archive: Path, version: str) -> Path:
    """``NAME-VERSION.mar`` beside ``NAME.mar``."""
    return archive.with_name(f"{archive.stem}-{version}.mar")


def make_room(latest: Path, name: str, version: str) -> None:
    """Before ``name`` is packaged: keeps the version that ``NAME.mar`` is, and leaves other models' archives alone.

    Raises:
        OperationError: an archive of another model has one of the two names.
    """
    for path in (latest, versioned(latest, version)):
        found = identity(path)
        if found is not None and found != (name, version) and path.name == f"{found[0]}-{found[1]}.mar":
            raise OperationError(
                f"{path}: is version {found[1]} of {found[0]}; choose another --name or --version, so that it stays"
            )
    before = identity(latest)
    if before is not None and before[0] == name and not (kept := versioned(latest, before[1])).exists():
        link(latest, kept)


def link(archive: Path, other: Path) -> None:
    """Makes ``other`` the same file as ``archive``, in one step; a copy where the file system has no links."""
    temporary = other.with_name(f".{other.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(archive, temporary)
        except OSError:
            shutil.copyfile(archive, temporary)
        temporary.replace(other)
    finally:
        temporary.unlink(missing_ok=True)


def twins(archive: Path) -> list[Path]:
    """The archive's other names in the store: ``NAME-VERSION.mar`` of ``NAME.mar``, or the other way round."""
    found = identity(archive)
    if found is None:
        return []
    latest = archive.with_name(f"{found[0]}.mar")
    others = [path for path in (latest, versioned(latest, found[1])) if path != archive and path.is_file()]
    return [path for path in others if identity(path) == found and _is_same(archive, path)]


def _is_same(first: Path, second: Path) -> bool:
    if first.samefile(second):
        return True
    if first.stat().st_size != second.stat().st_size:
        return False
    with open(first, "rb") as one, open(second, "rb") as other:
        while chunk := one.read(1 << 20):
            if chunk != other.read(1 << 20):
                return False
    return True


def identity(archive: Path) -> tuple[str, str] | None:
    """Name and version in an archive's manifest; None where there is no such archive."""
    try:
        with zipfile.ZipFile(archive) as archived:
            model = json.loads(archived.read(MANIFEST))["model"]
            return str(model["modelName"]), str(model.get("modelVersion"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return None
