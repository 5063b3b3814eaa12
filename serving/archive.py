"""Bundle -> ``.mar``, and back."""

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
from marquee.handlers.errors import BundleError
from marquee.handlers.schema import to_dict
from marquee.handlers.spec import BUNDLE_FOLDER, SPEC_FILE, ModelSpec, read_spec, verify_files
from marquee.handlers.worker_config import CONFIG_FILE, SECTION, WorkerConfig
from marquee.serving.errors import OperationError

MANIFEST = "MAR-INF/MANIFEST.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Every entry's date: the oldest that a zip can hold. Equal bundles give equal archives."""

MODEL_CONFIG = {
    # Workers at start; `marquee models scale` changes it while serving.
    "minWorkers": 1,
    "maxWorkers": 1,
    # While a worker is busy its queue fills anyway: 1 ms of waiting batches under load and costs nothing without.
    "batchSize": 8,
    "maxBatchDelay": 1,
    # Seconds. As soon as a YAML is present, TorchServe takes 120 for both unless they are given.
    "responseTimeout": 60,
    "startupTimeout": 300,
}
"""``model-config.yaml`` of the archive: TorchServe's keys. Those of the handler are its
:class:`~marquee.handlers.worker_config.WorkerConfig`."""


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
        raise OperationError(f"{run}: the training is not finished; go on with it: {resume}")
    begin = hints.command("train", "--data", "DATA", "--out", run)
    raise OperationError(f"{run}: neither a run nor a bundle; train one: {begin}")


def package(bundle: Path, name: str, version: str, store: Path, variant: str = "auto") -> Path:
    """Writes ``store/NAME.mar``: the bundle, the handlers package, and TorchServe's own files.

    Args:
        bundle: a bundle folder; every file is checked against its digest.
        name: the model's name on the server.
        version: the model's version on the server, such as ``1.0``.
        store: folder of archives; made when missing.
        variant: the name of the only variant to serve; ``auto``: the fastest that was measured and runs there.

    Returns:
        The path of the archive. Packaging the same bundle again gives the same bytes.

    Raises:
        BundleError: the bundle is damaged.
        OperationError: the name is not allowed, there is no such variant, or the archive cannot be written.
    """
    bundle, store = Path(bundle), Path(store)
    spec = read_spec(bundle)
    verify_files(bundle, spec.files)
    packed = packed_files(spec, variant)
    code = Path(handlers.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        work = Path(temporary)
        stage = work / "stage"
        for file in (SPEC_FILE, *packed):
            (stage / BUNDLE_FOLDER / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / file, stage / BUNDLE_FOLDER / file)
        shutil.copytree(code, stage / code.name, ignore=ignored)
        entry = work / f"image_classifier_{_digest(stage / code.name)[:12]}.py"
        shutil.copyfile(code / "image_classifier.py", entry)
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
            _write_archive(work / "out" / name, target)
        except OSError as error:
            raise OperationError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def packed_files(spec: ModelSpec, variant: str = "auto") -> list[str]:
    """The files of a bundle that an archive carries: without variants that were measured and may not be served.

    Args:
        spec: of the bundle.
        variant: the name of one that is packed whatever was measured; ``auto``: none.

    Raises:
        OperationError: there is no such variant.
    """
    names = [one.name for one in spec.variants]
    if variant != "auto" and variant not in names:
        raise OperationError(f"--variant {variant}: the bundle has {', '.join(names)}")
    ranked = {name for ranking in spec.rankings for name in ranking.order} if spec.rankings else set(names)
    wanted = ranked | {names[0], variant}
    files = {**spec.golden.files, **spec.samples}
    for one in spec.variants:
        if one.name in wanted:
            files.update(one.files)
    return list(files)


def replace_entry(archive: Path, place: str, content: bytes) -> None:
    """Exchanges one file of a ``.mar``, or adds it; everything else stays byte for byte.

    Args:
        archive: the ``.mar``.
        place: path inside it, such as ``model-config.yaml``.
        content: what it holds from now on.

    Raises:
        OperationError: the archive cannot be read or written.
    """
    copy_archive(archive, archive, place, content)


def copy_archive(archive: Path, target: Path, place: str, content: bytes) -> None:
    """Writes ``target``, in one step, as ``archive`` with another ``content`` at ``place``.

    Raises:
        OperationError: the archive cannot be read, or the target not be written.
    """
    temporary = target.with_name(f".{target.name}.partial")
    try:
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as new:
            for entry in old.infolist():
                new.writestr(entry, content if entry.filename == place else old.read(entry))
            if place not in old.namelist():
                entry = zipfile.ZipInfo(place, _EPOCH)
                entry.external_attr = 0o644 << 16
                new.writestr(entry, content)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise OperationError(f"{target}: {place} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def replace_spec(archive: Path, content: bytes) -> None:
    """:func:`replace_entry` for the bundle's ``spec.json``."""
    replace_entry(archive, f"{BUNDLE_FOLDER}/{SPEC_FILE}", content)


def check_archive(archive: Path) -> None:
    """Reads an archive whole, as TorchServe will: it retries a damaged one for minutes and logs the reason elsewhere.

    Raises:
        OperationError: the file is missing, or not a whole model archive.
    """
    try:
        with zipfile.ZipFile(archive) as archived:
            damaged = archived.testzip()
            if damaged is None and MANIFEST not in archived.namelist():
                damaged = MANIFEST
    except FileNotFoundError as error:
        raise OperationError(
            f"{archive}: not found; make it with: "
            f"{hints.command('package', 'RUN', '--name', archive.stem, '--store', archive.parent)}"
        ) from error
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise OperationError(f"{archive}: not a whole model archive ({error}); package the run again") from error
    if damaged is not None:
        raise OperationError(f"{archive}: {damaged} is damaged or missing; package the run again")


@contextmanager
def open_archive(archive: Path, into: Path | None = None) -> Iterator[Path]:
    """Unpacks the bundle of a ``.mar``.

    Args:
        archive: the ``.mar``.
        into: a folder to keep it in; None: a temporary one, for the length of the block.

    Raises:
        OperationError: the file is missing, no archive, or not one of ours.
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
            # A damaged variant is the server's matter: it says so and falls back to the next.
            verify_files(folder, read_spec(folder).golden.files)
        except BundleError as error:
            raise OperationError(f"{archive}: {str(error).replace(f'{folder}/', '')}") from error
        yield folder


def _digest(folder: Path) -> str:
    """Of the code in ``folder``, for the entry file's name.

    TorchServe finds that file by its name on the worker's path, where an inherited PYTHONPATH comes first: a name that
    says what is in it cannot stand for anything else there.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@contextmanager
def _private_temporary_folder(folder: Path) -> Iterator[None]:
    """The archiver stages in ``TMPDIR/MODEL_NAME`` and first deletes what is there, whoever it belongs to."""
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _write_archive(folder: Path, target: Path) -> None:
    """Zips ``folder`` reproducibly: entries sorted, dates fixed, nothing compressed (weights hardly would be)."""
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
