"""Packages bundles as ``.mar`` archives, and reads and changes such archives."""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging import generate_model_archive

from marquee import handlers, hints
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.schema import to_dict
from marquee.handlers.core.spec import BUNDLE_FOLDER, SPEC_FILE, ModelSpec
from marquee.handlers.core.worker_config import CONFIG_FILE, SECTION, WorkerConfig
from marquee.serving.errors import OperationError
from marquee.serving.store import MANIFEST, check_name, check_version, link, make_room, twins, versioned

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Timestamp of every entry, the oldest that a zip can hold: equal bundles give identical archives."""

MODEL_CONFIG = {
    # Workers at start; `marquee models scale` changes it while serving.
    "minWorkers": 1,
    "maxWorkers": 1,
    # While a worker is busy its queue fills anyway: waiting 1 ms fills batches under load, and costs nothing otherwise.
    "batchSize": 8,
    "maxBatchDelay": 1,
    # Seconds. With a YAML file present, TorchServe's default for both is 120.
    "responseTimeout": 60,
    "startupTimeout": 300,
}
"""TorchServe's keys in the archive's ``model-config.yaml``. The handler's keys are the fields of
:class:`~marquee.handlers.core.worker_config.WorkerConfig`."""


def find_bundle(run: Path) -> Path:
    """The bundle of a run folder, or ``run`` itself when it is one.

    Raises:
        OperationError: there is none.
    """
    for folder in (Path(run) / BUNDLE_FOLDER, Path(run)):
        if (folder / SPEC_FILE).is_file():
            return folder
    if (Path(run) / "config.yaml").is_file():
        resume = hints.command("train", "--out", run, "--resume")
        raise OperationError(f"{run}: the training is not finished; resume it: {resume}")
    train = hints.command("train", "--data", "DATA", "--out", run)
    raise OperationError(f"{run}: neither a run nor a bundle; train one: {train}")


def package(bundle: Path, name: str, version: str, store: Path, variant: str = "auto") -> Path:
    """Writes ``store/NAME-VERSION.mar``: the bundle, the handlers package, and TorchServe's own files.

    ``store/NAME.mar`` is the same file then; archives of other versions stay beside it.

    Args:
        bundle: a bundle folder; every file is checked against its digest.
        name: the model's name on the server, with or without ``.mar``.
        version: the model's version on the server, such as ``1.0``.
        store: folder of archives; made when missing.
        variant: the name of the only variant to serve; ``auto``: the fastest that was measured and runs there.

    Returns:
        The path of ``NAME.mar``. Packaging the same bundle again gives the same bytes.

    Raises:
        BundleError: the bundle is damaged.
        OperationError: the name or the version is not allowed, or another model's archive has this file name; there is
            no such variant; or the archive cannot be written.
    """
    name = name.removesuffix(".mar")
    try:
        check_name(name)
        check_version(version)
    except ValueError as error:
        raise OperationError(f"--{error}") from error
    source, store = Bundle.read(bundle), Path(store)
    source.verify()
    packed = packed_files(source.spec, variant)
    code = Path(handlers.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        work = Path(temporary)
        stage = work / "stage"
        for file in (SPEC_FILE, *packed):
            (stage / BUNDLE_FOLDER / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / file, stage / BUNDLE_FOLDER / file)
        shutil.copytree(code, stage / code.name, ignore=ignored)
        entry = work / f"{source.spec.task.replace('-', '_')}_{_digest(stage / code.name)[:12]}.py"
        shutil.copyfile(code / "entry.py", entry)
        section = {SECTION: to_dict(WorkerConfig(variant=variant))}
        config_text = yaml.safe_dump({**MODEL_CONFIG, **section}, sort_keys=False)
        (work / CONFIG_FILE).write_text(config_text, "utf-8")
        (work / "out").mkdir()
        config = ModelArchiverConfig(
            model_name=name,
            handler=str(entry),
            version=version,
            extra_files=str(stage),
            config_file=str(work / CONFIG_FILE),
            export_path=str(work / "out"),
            archive_format="no-archive",
        )
        try:
            with _private_temporary_folder(work / "archiver"):
                generate_model_archive(config)
        except ModelArchiverError as error:
            raise OperationError(f"cannot package {name!r}: {' '.join(str(error).split())}") from error
        target = store / f"{name}.mar"
        try:
            store.mkdir(parents=True, exist_ok=True)
            make_room(target, name, version)
            _write_archive(work / "out" / name, versioned(target, version))
            link(versioned(target, version), target)
        except OSError as error:
            raise OperationError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def packed_files(spec: ModelSpec, variant: str = "auto") -> list[str]:
    """The files of a bundle that go into an archive: all but those of variants that were measured and rejected.

    Args:
        spec: the bundle's spec.
        variant: the name of a variant that is packed even if it was rejected; ``auto``: none.

    Raises:
        OperationError: there is no such variant.
    """
    names = [candidate.name for candidate in spec.variants]
    if variant != "auto" and variant not in names:
        raise OperationError(f"--variant {variant}: the bundle has {', '.join(names)}")
    ranked = {name for ranking in spec.rankings for name in ranking.order} if spec.rankings else set(names)
    packed = ranked | {names[0], variant}
    files = {**spec.golden.files, **spec.samples}
    for candidate in spec.variants:
        if candidate.name in packed:
            files.update(candidate.files)
    return list(files)


def replace_entry(archive: Path, path: str, content: bytes) -> None:
    """Replaces one file of a ``.mar``, or adds it; all other files stay identical byte for byte.

    The archive's other name in the store, of its version or without, goes on to be the same file.

    Args:
        archive: the ``.mar``.
        path: of the file inside the archive, such as ``model-config.yaml``.
        content: the new content of the file.

    Raises:
        OperationError: the archive cannot be read or written.
    """
    same = twins(archive)
    copy_archive(archive, archive, path, content)
    for other in same:
        link(archive, other)


def copy_archive(archive: Path, target: Path, path: str, content: bytes) -> None:
    """Writes a copy of ``archive`` to ``target``, atomically, with ``content`` as its file ``path``.

    Raises:
        OperationError: the archive cannot be read, or the target cannot be written.
    """
    temporary = target.with_name(f".{target.name}.partial")
    try:
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as new:
            for entry in old.infolist():
                new.writestr(entry, content if entry.filename == path else old.read(entry))
            if path not in old.namelist():
                entry = zipfile.ZipInfo(path, _EPOCH)
                entry.external_attr = 0o644 << 16
                new.writestr(entry, content)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise OperationError(f"{target}: {path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def replace_spec(archive: Path, content: bytes) -> None:
    """:func:`replace_entry` for the bundle's ``spec.json``."""
    replace_entry(archive, f"{BUNDLE_FOLDER}/{SPEC_FILE}", content)


def check_archive(archive: Path) -> None:
    """Checks that an archive is complete: TorchServe would retry a damaged one for minutes, and log why elsewhere.

    Raises:
        OperationError: the file is missing, or is not a complete model archive.
    """
    try:
        with zipfile.ZipFile(archive) as archived:
            damaged = archived.testzip()
            if damaged is None and MANIFEST not in archived.namelist():
                damaged = MANIFEST
    except PermissionError as error:
        raise OperationError(f"{archive}: no permission to read it; make it readable: chmod a+r {archive}") from error
    except FileNotFoundError as error:
        raise OperationError(
            f"{archive}: not found; make it with: "
            f"{hints.command('package', 'RUN', '--name', archive.stem, '--store', archive.parent)}"
        ) from error
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise OperationError(f"{archive}: not a complete model archive ({error}); package the run again") from error
    if damaged is not None:
        raise OperationError(f"{archive}: {damaged} is damaged or missing; package the run again")


@contextmanager
def open_archive(archive: Path, into: Path | None = None) -> Iterator[Path]:
    """Unpacks the bundle of a ``.mar``.

    Args:
        archive: the ``.mar``.
        into: the folder to unpack into; None: a temporary one, which is removed at the end of the block.

    Raises:
        OperationError: the file is missing, is not an archive, or was not packaged by Marquee.
    """
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        temporary = temporary if into is None else str(into)
        try:
            with zipfile.ZipFile(archive) as archived:
                names = [name for name in archived.namelist() if name.startswith(f"{BUNDLE_FOLDER}/")]
                archived.extractall(temporary, names)
        except (OSError, zipfile.BadZipFile) as error:
            raise OperationError(f"{archive}: not readable as a model archive: {error}") from error
        folder = Path(temporary) / BUNDLE_FOLDER
        try:
            # Variants are not verified here: the server reports a damaged one and falls back to the next.
            unpacked = Bundle.read(folder)
            unpacked.verify(unpacked.spec.golden.files)
        except BundleError as error:
            raise OperationError(f"{archive}: {str(error).replace(f'{folder}/', '')}") from error
        yield folder


def _digest(folder: Path) -> str:
    """SHA-256 of the Python code in ``folder``, for the name of the entry file.

    TorchServe imports the entry file by its name, and an inherited PYTHONPATH comes first on the worker's path: with
    the digest in its name, no other module there can be imported in its place.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@contextmanager
def _private_temporary_folder(folder: Path) -> Iterator[None]:
    """Redirects ``tempfile``: the archiver stages in ``TMPDIR/MODEL_NAME``, and first deletes whatever is there."""
    folder.mkdir()
    previous, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = previous


def _write_archive(folder: Path, target: Path) -> None:
    """Zips ``folder`` reproducibly: entries sorted, dates fixed, uncompressed (weights hardly compress)."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    manifest["createdOn"] = "01/01/1980 00:00:00"
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), "utf-8")
    temporary = target.with_name(f".{target.name}.partial")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
