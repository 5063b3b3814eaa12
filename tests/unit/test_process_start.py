"""A process is found again when the clock was set since it started, as on a virtual machine that was resumed."""

import dataclasses
import os
import subprocess
import sys
import time

import psutil
import pytest

from marquee import locks
from marquee.gateway.record import GatewayRecord, running
from marquee.process_start import start_of
from marquee.serving.record import Server, find
from marquee.serving.settings import Addresses

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil is asked")


@pytest.fixture
def set_the_clock(monkeypatch):
    """What the kernel tells as the time of the boot moves with the clock, and what psutil adds to it."""

    def shift(seconds: float) -> None:
        boot_time = psutil._psplatform.boot_time
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_time() + seconds)

    before = psutil.Process().create_time()
    yield shift
    assert psutil.Process().create_time() != before  # or nothing was shown


def server(folder) -> Server:
    return Server(
        folder=folder,
        pid=os.getpid(),
        started=start_of(os.getpid()),
        addresses=Addresses(),
        models=("digits",),
        store=folder,
        temporary=folder,
        authorized=True,
    )


@pytest.mark.parametrize("seconds", [1.0, -3600.0])
def test_a_server_a_gateway_and_a_lock(seconds, set_the_clock, tmp_path):
    server(tmp_path).save()
    GatewayRecord(folder=tmp_path, pid=os.getpid(), started=start_of(os.getpid())).save()
    with locks.locked(tmp_path, "a test"):
        set_the_clock(seconds)
        assert find(tmp_path) == server(tmp_path)
        assert running(tmp_path).pid == os.getpid()
        assert locks.owner_of(tmp_path).pid == os.getpid()


def test_another_process_with_the_same_pid_is_not_it(tmp_path):
    dataclasses.replace(server(tmp_path), started="a boot/1").save()
    assert find(tmp_path) is None


def test_processes_have_starts_of_their_own():
    processes = []
    try:
        for _ in range(2):
            processes.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
            time.sleep(0.05)
        first, second = (start_of(process.pid) for process in processes)
        assert first == start_of(processes[0].pid)
        assert len({first, second, start_of(os.getpid()), None}) == 4
    finally:
        for process in processes:
            process.communicate()
    assert start_of(processes[0].pid) is None
