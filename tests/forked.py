"""Processes that need not import: a server imports the libraries once and forks one process for each command.

:class:`Forked` stands in for :class:`subprocess.Popen` where a test runs a Python script. What it gives is a process
like any other, with a pid, signals, an exit code, streams, a working directory and an environment of its own, which
runs the script from its first line to what it has left for its exit. What differs is that torch and timm, which take
seconds, have been imported, and are not taken apart in the end. A test of what happens before, during or after that
uses Popen; a command line or an environment that only a new interpreter reads gets one here as well.

What a forked command starts by Popen is forked likewise; Popen's own methods wait for it, :func:`os.waitpid` does not
know it. So are the workers of a TorchServe that it starts: :func:`interpreter` is what starts them. The workers of
pytest-xdist are forked from the same server.
"""

import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from tests.fork_server import READ_ONCE, ask, read_once

ENVIRONMENT = dict(os.environ)
"""The server's."""
REAL_WORKERS = "MARQUEE_TESTS_REAL_WORKERS"
"""With this in the environment of a command, TorchServe's workers are started as they are for a user."""
_forked_by = ""
"""The door of the server that has forked this process, if one has."""


class Forked(subprocess.Popen):
    """A Popen whose process is forked by the server where that makes no difference."""

    _channel: socket.socket | None = None

    def _execute_child(self, *arguments: Any, **options: Any) -> None:
        start = super()._execute_child
        given = signature(start).bind(*arguments, **options).arguments
        environment = dict(os.environ) if given["env"] is None else dict(given["env"])
        if not _can_be_forked(given, environment):
            start(*arguments, **options)
            return
        streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        command = [os.fspath(part) for part in given["args"][1:]]
        how = {"folder": os.fspath(given["cwd"] or Path.cwd()), "new_session": given["start_new_session"]}
        self._channel = ask(_door(), command, streams, environment=environment, **how)
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in pipes))
        self.pid = self._receive()
        self._child_created = True

    def _receive(self) -> int:
        assert self._channel is not None
        number = self._channel.recv(4)
        if not number:
            raise RuntimeError("the server of tests/forked.py has ended; its error is in the output above")
        return int.from_bytes(number, "big")

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._channel is None:
            return super()._try_wait(wait_flags)
        self._channel.setblocking(not wait_flags & os.WNOHANG)
        try:
            status = self._receive()
        except BlockingIOError:
            return 0, 0
        self._channel.close()
        return self.pid, status

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._channel is None:
            return super()._internal_poll(*arguments, **options)
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(command: list[str], timeout: float, **options: Any) -> "subprocess.CompletedProcess[str]":
    """``subprocess.run(..., capture_output=True, text=True, check=False)``, forked."""
    with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


_ASK = '''\
import json, os, signal, socket, sys

def ask(command, plain=False):
    """Has the process forked in place of this one, and ends as it ends; it ends when this one does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.connect({door!r})
        request = dict(command=command, folder=os.getcwd(), environment=dict(os.environ), plain=plain)
        socket.send_fds(door, [json.dumps(dict(request, new_session=False, tied=True)).encode()], [0, 1, 2])
        door.recv(4)
        status = door.recv(4)
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "big")) if status else 1
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
'''
"""For programs that start without the libraries."""

_WORKER = """
# Whatever goes wrong here is written down and ends the process: Python would go on, and run the worker once more.
if len(sys.orig_argv) > 1 and sys.orig_argv[1].endswith("ts/model_service_worker.py"):
    known = {{name: value for name, value in os.environ.items() if name.startswith({names!r})}}
    for name in ("PYTHONPATH", "PYTHONUNBUFFERED"):
        known.pop(name, None)
    if known == {known!r} and {real!r} not in os.environ and os.path.exists({door!r}):
        try:
            ask(sys.orig_argv[1:], plain=True)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
"""


def command(path: Path, module: str, plain: bool = False) -> Path:
    """Makes ``path`` a program that a shell can start, which runs ``python -m module``, forked.

    Args:
        path: a new file.
        module: is run.
        plain: without the modules of this project, which are imported anew, from where PYTHONPATH says.
    """
    _write_program(path, f"ask(['-m', {module!r}, *sys.argv[1:]], plain={plain})")
    return path


def _write_program(path: Path, code: str) -> None:
    path.write_text(f"#!{sys.executable} -IS\n{_ASK.format(door=_door())}\n{code}\n")
    path.chmod(0o755)


@cache
def interpreter() -> str:
    """A virtual environment's interpreter with this one's packages, in which TorchServe's workers are forked.

    A worker has two processes: the one that TorchServe starts, which costs next to nothing, and the forked one, which
    answers, and whose pid TorchServe reports, since it reads that in the worker's log. What ends one of them ends the
    other. A test of what a worker imports sets :data:`REAL_WORKERS`.
    """
    return str(_interpreter(Path(_door())))


def _interpreter(door: Path) -> Path:
    return door.with_name("python") / "bin" / "python"


def workers(count: int) -> list[str]:
    """What ``--tx`` of pytest-xdist takes for this many workers, each with one thread, since they share the cores."""
    ENVIRONMENT.setdefault("OMP_NUM_THREADS", "1")
    program = Path(_door()).with_name("worker")
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller, which ends the workers"
    _write_program(program, f"{ignore}\nask(sys.argv[1:])")
    return [f"popen//python={program}"] * count


def use(door: str, for_children: bool) -> None:
    """Has this process use the server with this door, which has forked it.

    Args:
        door: see the program.
        for_children: whether everything that it starts by Popen is forked.
    """
    global _forked_by
    _forked_by = door
    if for_children:
        subprocess.Popen = Forked  # type: ignore[misc]


def _door() -> str:
    return _forked_by or str(_server().door)


def _can_be_forked(given: dict[str, Any], environment: dict[str, str]) -> bool:
    program, *rest = given["args"]
    if program != sys.executable or not rest or not (rest[0] == "-m" or os.fspath(rest[0]).endswith(".py")):
        return False
    if given["executable"] not in (None, sys.executable) or not given["close_fds"]:
        return False
    return not given["preexec_fn"] and not given["pass_fds"] and read_once(environment) == read_once(ENVIRONMENT)


class _Server:
    """This process's server, which ends when the process does."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork-")
        self.door = Path(self._folder.name) / "door"
        interpreter = _interpreter(self.door)
        self._make_interpreter(interpreter)
        self._lifeline, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.door))
        listener.listen()
        with theirs, listener:
            descriptors = listener.fileno(), theirs.fileno()
            program = Path(__file__).with_name("fork_server.py")
            arguments = [sys.executable, str(program), *map(str, descriptors), str(interpreter)]
            subprocess.Popen(arguments, pass_fds=descriptors, env=ENVIRONMENT)

    def _make_interpreter(self, program: Path) -> None:
        """Not by ``python -m venv``, which takes a second: a link, its configuration, and where packages are."""
        folder = program.parent.parent
        program.parent.mkdir(parents=True)
        program.symlink_to(Path(sys.executable).resolve())
        home = Path(sys.executable).resolve().parent
        (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        packages.mkdir(parents=True)
        known = read_once(ENVIRONMENT)
        known.pop("PYTHONPATH", None)
        code = _WORKER.format(names=READ_ONCE, known=known, real=REAL_WORKERS, door=str(self.door))
        (packages / "forked_worker.py").write_text(_ASK.format(door=str(self.door)) + code)
        places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        adding = "; ".join(f"site.addsitedir({place!r})" for place in sorted(places))
        # Lines of code, read in the order of their files' names: the worker goes before the packages are looked at.
        (packages / "1.pth").write_text("import forked_worker\n")
        (packages / "2.pth").write_text(f"import site; {adding}\n")


@cache
def _server() -> _Server:
    return _Server()
