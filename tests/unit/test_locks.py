"""The lock on a folder, between real processes: who holds it, and that nobody holds it after its owner was killed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from marquee.locks import LOCK_FILE, LockedError, locked, owner_of

HOLD = """
import os, sys, time
from pathlib import Path
from marquee.locks import locked
with locked(Path(sys.argv[1]), "marquee train"):
    if len(sys.argv) > 2 and (child := os.fork()) == 0:
        time.sleep(60)
        os._exit(0)
    print(child if len(sys.argv) > 2 else 0, flush=True)
    time.sleep(60)
"""


def hold(folder: Path, *arguments: str) -> tuple["subprocess.Popen[str]", int]:
    """A process that holds the lock, and the pid of the child that it has forked meanwhile, or 0."""
    command = [sys.executable, "-c", HOLD, str(folder), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_owner_is_named_and_a_killed_one_is_succeeded(tmp_path):
    process, _ = hold(tmp_path)
    with process:
        try:
            with pytest.raises(LockedError) as caught, locked(tmp_path, "marquee train"):
                pass
            assert str(caught.value) == (
                f"{tmp_path}: pid {process.pid} (marquee train) is working in this folder; wait for it, or end it first"
            )
            assert owner_of(tmp_path).pid == process.pid
        finally:
            process.kill()
    assert owner_of(tmp_path) is None
    with locked(tmp_path, "marquee evaluate") as before:
        assert before.pid == process.pid
        assert owner_of(tmp_path).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_child_does_not_keep_the_lock_of_a_killed_owner(tmp_path):
    process, child = hold(tmp_path, "fork")
    try:
        with process:
            os.kill(process.pid, signal.SIGKILL)
        assert psutil.pid_exists(child)
        with locked(tmp_path, "marquee train") as before:
            assert before.pid == process.pid
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_polite_end_leaves_nothing(tmp_path):
    folder = tmp_path / "new"
    process, _ = hold(folder)
    with process:
        process.send_signal(signal.SIGINT)
    assert not folder.exists()


def test_a_thread_may_ask_again_and_another_may_not(tmp_path):
    refused = []

    def ask():
        try:
            with locked(tmp_path, "other"):
                pass
        except LockedError as error:
            refused.append(str(error))

    with locked(tmp_path, "outer"):
        with locked(tmp_path / "." / "", "inner"):
            pass
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"pid {os.getpid()} (outer)" in refused[0]
    ask()
    assert len(refused) == 1


def test_a_folder_that_is_deleted_meanwhile(tmp_path):
    folder = tmp_path / "a"
    with locked(folder, "outer"):
        (folder / LOCK_FILE).unlink()
        folder.rmdir()
    assert not folder.exists()


def test_one_at_a_time_under_contention(tmp_path):
    """Each adds one to a number that it reads and writes in two steps; releasing removes the file that others open."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom marquee.locks import LockedError, locked\n"
        "folder, done = Path(sys.argv[1]), 0\n"
        "while done < 20:\n"
        "    try:\n"
        "        with locked(folder, 'x'):\n"
        "            number = int((folder / 'n').read_text())\n"
        "            time.sleep(0.001)\n"
        "            (folder / 'n').write_text(str(number + 1))\n"
        "            done += 1\n"
        "    except LockedError:\n"
        "        time.sleep(0.0005)\n"
    )
    (tmp_path / "n").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "n").read_text() == "60"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught, locked(tmp_path / "file", "x"):
        pass
    assert caught.value.filename
