"""A forked process is what Popen starts, in everything that tests look at."""

import os
import shutil
import signal
import subprocess
import sys

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


def test_a_shell_finds_it_as_a_command(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['GREETING'], 'torch' in sys.modules); sys.exit(3)"
    )
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.move(tmp_path / "program.py", folder)
    with forked.command(tmp_path / "greet", "program"):
        shell = ["bash", "-c", 'GREETING=hello greet "two words" | tr a-z A-Z; exit ${PIPESTATUS[0]}']
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        result = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (3, f"['TWO WORDS'] {str(folder).upper()} HELLO TRUE\n")
