"""Files follow the umask, and a permission that is missing is named: what another user of the machine sees."""

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from marquee.serving.archive import check_archive
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile
from marquee.serving.record import STATE_FILE, find
from marquee.training.core.checkpoint import CheckpointStore, TrainingState
from marquee.training.core.errors import CheckpointError
from marquee.training.core.files import atomic_folder, write_atomic

NOBODY = 65534


@contextmanager
def umask(mask: int) -> Iterator[None]:
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)


@contextmanager
def another_user() -> Iterator[None]:
    """Root may read everything: this process acts as another user meanwhile, where it can."""
    if os.geteuid() != 0:
        yield  # and the files' modes are enough
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter; those of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def save(folder: Path, epoch: int) -> Path:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return CheckpointStore(folder).save(model, optimizer, scaler, TrainingState(epoch=epoch), best=True)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("mask", "files", "folders"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_files_follow_the_umask(mask, files, folders, tmp_path):
    with umask(mask):
        path = save(tmp_path / "checkpoints", 1)
        write_atomic(tmp_path / "a.json", "{}")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "run.sh").touch(0o700)
    assert modes(tmp_path / "checkpoints") == {files}
    assert modes(path) == {files}
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == files
    assert {stat.S_IMODE(p.stat().st_mode) for p in (path, tmp_path / "folder", tmp_path / "folder" / "inner")} == {
        folders
    }
    assert (tmp_path / "folder" / "inner" / "run.sh").stat().st_mode & stat.S_IXUSR


def test_a_checkpoint_that_may_not_be_read_is_no_damaged_one(shared, caplog):
    save(shared / "checkpoints", 1)
    last = save(shared / "checkpoints", 2)
    (last / "weights.safetensors").chmod(0)
    store = CheckpointStore(shared / "checkpoints")
    caplog.set_level(logging.WARNING, "marquee")
    with another_user(), pytest.raises(CheckpointError) as caught:
        store.find("last")
    assert str(caught.value).startswith(f"{last / 'weights.safetensors'}: no permission to read it; it belongs to ")
    assert "damaged" not in str(caught.value)
    assert caplog.messages == []
    (last / "weights.safetensors").chmod(0o644)
    assert store.find("last") == last


def test_a_checkpoint_that_may_not_be_written(shared):
    (shared / "checkpoints").mkdir(mode=0o555)
    with another_user(), pytest.raises(CheckpointError, match="no permission to write it"):
        save(shared / "checkpoints", 1)


def test_the_file_that_may_not_be_written_is_named(shared):
    with another_user():
        if os.geteuid() == shared.stat().st_uid:
            pytest.skip("this user may write there")
        for write in (lambda: write_atomic(shared / "a.json", "{}"), lambda: atomic_folder(shared / "b").__enter__()):
            with pytest.raises(PermissionError) as caught:
                write()
            assert Path(caught.value.filename).parent == shared
            assert Path(caught.value.filename).name in ("a.json", "b")


def test_an_archive_and_a_server_of_another_user(shared):
    for name in ("a.mar", STATE_FILE, "key_file.json"):
        (shared / name).touch(0o600)
        (shared / name).chmod(0 if os.geteuid() else 0o600)
    with another_user():
        with pytest.raises(OperationError, match=r"a\.mar: no permission to read it; make it readable: chmod a\+r"):
            check_archive(shared / "a.mar")
        with pytest.raises(OperationError, match=r"server\.json: Permission denied; it belongs to another user"):
            find(shared)
        with pytest.raises(
            OperationError, match=r"key_file\.json: no permission to read it: only the user who started"
        ):
            KeyFile(shared / "key_file.json").token("inference")
