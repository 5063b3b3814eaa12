"""A bundle: one folder with a model and everything that decides its answers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..migrate import migrate
from .errors import BundleError
from .schema import SchemaError, from_dict
from .spec import SCHEMA_VERSION, SPEC_FILE, ModelSpec, VariantSpec, check_version


@dataclass(frozen=True)
class Bundle:
    """A folder and what its ``spec.json`` says, or is going to say."""

    folder: Path
    spec: ModelSpec
    digest: str = ""
    """``sha256:...`` of ``spec.json``, which pins every other file; empty while the bundle is being made."""

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """Reads and validates ``folder/spec.json``; the other files are not looked at.

        Raises:
            BundleError: the file is absent, no JSON, or a field is wrong; the message names file and field.
        """
        return cls(Path(folder), read_spec(folder), bundle_digest(folder))

    def write(self) -> "Bundle":
        """Writes ``spec.json`` and reads it again, as a server will."""
        (self.folder / SPEC_FILE).write_text(self.spec.to_json(), "utf-8")
        return Bundle.read(self.folder)

    def with_spec(self, spec: ModelSpec) -> "Bundle":
        """The same folder with another spec, which is not written yet."""
        return replace(self, spec=spec, digest="")

    def verify(self, files: Mapping[str, str] | None = None) -> None:
        """Compares files with their digests.

        Args:
            files: path inside the bundle -> sha256, such as ``variant.files``; None: all that the spec names.

        Raises:
            BundleError: a file is missing or its content differs; the message names it.
        """
        verify_files(self.folder, self.spec.files if files is None else files)

    def program(self, variant: VariantSpec) -> Path:
        """The file of a variant that its engine opens."""
        return self.folder / next(iter(variant.files))


def read_spec(folder: Path) -> ModelSpec:
    """Reads and validates ``folder/spec.json``.

    Raises:
        BundleError: the file is absent, no JSON, or a field is wrong; the message names file and field.
    """
    path = Path(folder) / SPEC_FILE
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path}: not found; is this folder a bundle?") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable as JSON: {error}") from error
    try:
        document = migrate(data, SCHEMA_VERSION)
        _check_version(document)
        return from_dict(ModelSpec, document)
    except SchemaError as error:
        raise BundleError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Version:
    schema_version: int


def _check_version(document: Any) -> None:
    """A later version may differ in any field: that is what is to be said, not the first field that does."""
    if isinstance(document, dict) and "schema_version" in document:
        check_version(from_dict(_Version, {"schema_version": document["schema_version"]}).schema_version)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def bundle_digest(folder: Path) -> str:
    """``sha256:`` and the digest of ``spec.json``, which itself pins every other file of the bundle."""
    return f"sha256:{sha256_file(Path(folder) / SPEC_FILE)}"


def verify_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compares files of a bundle with their digests.

    Args:
        folder: the bundle.
        files: path inside the bundle -> sha256, such as ``spec.files`` or ``variant.files``.

    Raises:
        BundleError: a file is missing or its content differs; the message names it.
    """
    for name, expected in files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise BundleError(f"{path}: missing, though spec.json names it")
        actual = sha256_file(path)
        if actual != expected:
            raise BundleError(
                f"{path}: sha256 is {actual[:12]}..., spec.json says {expected[:12]}...; "
                "the file was changed after export: package the run again"
            )
