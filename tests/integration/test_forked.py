"""A forked process is what Popen starts, in everything that tests look at."""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from tests import forked

PROGRAM = """
import atexit, multiprocessing, os, signal, sys, threading, time

def report(queue):
    queue.put((__name__, sys.argv, os.getppid()))

if __name__ == "__main__":
    atexit.register(print, "at exit")
    print(sys.argv, __name__, sys.path[0], os.getcwd(), os.environ.get("GREETING"), sys.stdin.read())
    print(os.getsid(0) == os.getpid(), [signal.getsignal(number) for number in (1, 2, 13, 15)])
    print(len(os.listdir("/proc/self/fd")), sys.stdout.encoding, sys.stdout.line_buffering, sys.stderr.errors)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=report, args=(queue,))
    child.start()
    name, arguments, parent = queue.get()
    child.join()
    print(name, arguments, parent == os.getpid())
    print("to the other stream", file=sys.stderr)
    threading.Thread(target=lambda: (time.sleep(0.2), print("from a thread"))).start()
    sys.exit(int(sys.argv[1]) if sys.argv[1].isdigit() else sys.argv[1])
"""


@pytest.mark.parametrize("ending", ["0", "3", "a reason"])
@pytest.mark.parametrize("new_session", [False, True])
def test_it_ends_and_looks_like_a_process_of_its_own(ending, new_session, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "GREETING": "grün"},
        "start_new_session": new_session,
        "stdin": subprocess.DEVNULL,
    }
    command = [sys.executable, str(program), ending]
    real = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    process = forked.run(command, timeout=60, **options)
    assert (process.returncode, process.stderr) == (real.returncode, real.stderr)
    assert sorted(process.stdout.splitlines()) == sorted(real.stdout.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(number, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import time\nprint('started', flush=True)\ntime.sleep(60)")
    with forked.Forked([sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        assert process.poll() is None
        os.kill(process.pid, number)
        assert process.wait(30) == -number


def test_what_is_read_once_takes_a_new_interpreter(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys; print('torch' in sys.modules)")
    command = [sys.executable, str(program)]
    assert forked.run(command, timeout=60).stdout == "True\n"
    assert forked.run(command, timeout=60, env={**os.environ, "PYTHONHASHSEED": "1"}).stdout == "False\n"


STARTS_ANOTHER = """
import os, subprocess, sys
if len(sys.argv) > 1:
    print("torch" in sys.modules, flush=True)
    print("at once", end="")
    os._exit(5)
for more in {}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONHASHSEED": "1"}:
    done = subprocess.run([sys.executable, __file__, "x"], env={**os.environ, **more}, capture_output=True, text=True)
    print(done.returncode, done.stdout.strip())
"""


def test_what_it_starts_is_forked_too(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(STARTS_ANOTHER)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    told = forked.run([sys.executable, str(program)], timeout=60, env=plain)
    assert told.stdout.split("5 ")[1:] == ["True\n", "True\nat once\n", "False\n"], told.stderr


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="only the workers of pytest-xdist are forked")
def test_the_workers_of_the_tests_are_forked():
    parent = psutil.Process(os.getppid())
    assert any(part.endswith("fork_server.py") for part in parent.cmdline())
    assert subprocess.Popen is not forked.Forked, "a test may start what it likes"


def test_a_shell_finds_it_as_a_command(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['GREETING'], 'torch' in sys.modules); sys.exit(3)"
    )
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.move(tmp_path / "program.py", folder)
    forked.command(tmp_path / "greet", "program")
    shell = ["bash", "-c", 'GREETING=hello greet "two words" | tr a-z A-Z; exit ${PIPESTATUS[0]}']
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (3, f"['TWO WORDS'] {str(folder).upper()} HELLO TRUE\n")


FORK_SERVER = """
import multiprocessing, os, sys, time

def report(queue):
    queue.put(("torch" in sys.modules, os.getpid()))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    queue = context.SimpleQueue()
    child = context.Process(target=report, args=(queue,))
    child.start()
    had_torch, pid = queue.get()
    child.join()
    print(had_torch, child.exitcode, pid == child.pid)
    quiet = context.Process(target=time.sleep, args=(600,))
    quiet.start()
    quiet.kill()
    quiet.join()
    print(quiet.exitcode)
"""


def test_the_fork_server_of_multiprocessing_is_forked_too(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(FORK_SERVER)
    command = [sys.executable, str(program)]
    assert forked.run(command, timeout=60).stdout.split() == ["True", "0", "True", "-9"]
    real = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert real.stdout.split() == ["False", "0", "True", "-9"]


WORKER = """
import os, sys, time
print(sys.argv[1:], "torch" in sys.modules, "marquee" in sys.modules, os.environ["PYTHONPATH"] in sys.path, os.getpid())
sys.stdout.flush()
time.sleep(float(sys.argv[1]))
sys.exit(3)
"""


def start_worker(folder, seconds: float, **environment: str) -> "subprocess.Popen[str]":
    """As TorchServe starts one."""
    program = folder / "ts" / "model_service_worker.py"
    program.parent.mkdir()
    program.write_text(WORKER)
    command = [forked.interpreter(), str(program), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_worker_of_torchserve_is_forked_without_the_project(tmp_path):
    with start_worker(tmp_path, 0) as process:
        line = process.stdout.read().strip()
        assert process.wait(30) == 3
    assert line.startswith("['0'] True False True ")
    assert int(line.split()[-1]) != process.pid


def test_a_worker_starts_as_a_users_does_where_that_is_asked(tmp_path):
    with start_worker(tmp_path, 0, **{forked.REAL_WORKERS: "1"}) as process:
        assert process.stdout.read().strip() == f"['0'] False False True {process.pid}"
        assert process.wait(30) == 3


@pytest.mark.parametrize("kills_the_forked_one", [False, True])
def test_neither_process_of_a_worker_outlives_the_other(kills_the_forked_one, tmp_path):
    with start_worker(tmp_path, 600) as process:
        pid = int(process.stdout.readline().split()[-1])
        os.kill(pid if kills_the_forked_one else process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert process.stdout.read() == "", "the end of the stream comes when both are gone"


def test_it_sees_the_packages_of_this_interpreter():
    code = "import sys, pytest, marquee; print(pytest.__file__, marquee.__file__, len(sys.path))"
    seen = [
        subprocess.run([program, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for program in (sys.executable, forked.interpreter())
    ]
    assert seen[0][:2] == seen[1][:2]
