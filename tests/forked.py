"""Processes that need not import: a server imports the libraries once and forks one process for each command.

:class:`Forked` stands in for :class:`subprocess.Popen` where a test runs a Python script. What it gives is a process
like any other, with a pid, signals, an exit code, streams, a working directory and an environment of its own, which
runs the script from its first line to what it has left for its exit. What differs is that torch and timm, which take
seconds, have been imported, and are not taken apart in the end. A test of what happens before, during or after that
uses Popen; a command line or an environment that only a new interpreter reads gets one here as well.

This file is the server's program, too. The server must not compute: threads do not survive a fork.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "jinja2",
    "marquee.handlers.core.engines.exported",
    "marquee.serving.archive",
    "marquee.serving.client",
    "marquee.serving.server",
    "marquee.training.tasks.image_classification.architectures",
    "marquee.training.tools.batch_size_finder",
    "marquee.training.core.evaluation",
    "marquee.training.tools.lr_finder",
    "marquee.training.optimize.optimize",
    "marquee.training.tasks.image_classification.report",
    "marquee.training.core.run",
    "marquee.training.selection.select",
    "matplotlib.backends.backend_svg",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.covariance",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sympy.combinatorics",
    "timm",
    "timm.optim",
    "torch._dynamo",
    "torch._export.serde.serialize",
    "torch.export._trace",
    "torch.export.pt2_archive._package",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
    "tyro",
    "typeguard",
)
"""What takes long and several commands need, whether they import it at once or where they use it."""
READ_ONCE = ("CUDA_", "LD_", "MALLOC_", "MKL_", "OMP_NUM_THREADS", "OPENBLAS_", "PYTHON", "TORCH_")
"""How the variables begin that a process reads when it starts or imports, and never again.

Those that say how threads wait are not among them: they change no result, and the commands set them themselves."""
ENVIRONMENT = dict(os.environ)
"""The server's."""


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
        request = {
            "command": [os.fspath(part) for part in given["args"][1:]],
            "folder": os.fspath(given["cwd"] or Path.cwd()),
            "environment": environment,
            "new_session": given["start_new_session"],
        }
        streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        self._channel, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [json.dumps(request).encode()], [*streams, theirs.fileno()])
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


_COMMAND = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
    door.connect({door!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(door, [request.encode()], [0, 1, 2])
    sys.exit(int(door.recv(4)))
"""


@contextmanager
def command(path: Path, module: str) -> Iterator[None]:
    """Makes ``path`` a program that a shell can start, which runs ``python -m module``, forked."""
    door = path.with_name(f".{path.name}")
    path.write_text(_COMMAND.format(python=sys.executable, door=str(door)))
    path.chmod(0o755)

    running: list[Forked] = []

    def answer_all(listener: socket.socket) -> None:
        with suppress(OSError):  # shut down
            while True:
                caller = listener.accept()[0]
                threading.Thread(target=answer, args=(caller,), daemon=True).start()

    def answer(caller: socket.socket) -> None:
        with caller:  # what goes wrong here ends the program, too, which then has no answer
            message, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
            arguments, folder, environment = json.loads(message)
            options = dict(zip(("stdin", "stdout", "stderr"), streams, strict=True))
            with starting:
                process = Forked([sys.executable, "-m", module, *arguments], cwd=folder, env=environment, **options)
                running.append(process)
            for stream in streams:
                os.close(stream)
            code = process.wait()
            caller.send(str(128 - code if code < 0 else code).encode())

    starting = threading.Lock()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(door))
        listener.listen()
        thread = threading.Thread(target=answer_all, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for process in running:
                if process.poll() is None:
                    process.kill()


def _can_be_forked(given: dict[str, Any], environment: dict[str, str]) -> bool:
    program, *rest = given["args"]
    if program != sys.executable or not (rest[0] == "-m" or os.fspath(rest[0]).endswith(".py")):
        return False
    return not given["preexec_fn"] and not given["pass_fds"] and _read_once(environment) == _read_once(ENVIRONMENT)


def _read_once(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_ONCE)}


@cache
def _server() -> socket.socket:
    """The connection to this process's server, which ends when the connection does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=ENVIRONMENT)
    return ours


def _serve(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Forks for each request; returns in the forked process only, with the request and its streams."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:  # the descriptor of a process that has ended
                pid, channel = running.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                with channel:
                    _send(channel, os.waitpid(pid, 0)[1])
                continue
            message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 4)
            if not message:
                os._exit(0)
            pid = os.fork()
            channel = socket.socket(fileno=descriptors.pop())
            if not pid:
                selector.close()
                for descriptor, (_, other) in running.items():
                    os.close(descriptor)
                    other.close()
                for own in (channel, control):
                    own.close()
                return json.loads(message), descriptors
            for descriptor in descriptors:
                os.close(descriptor)
            # OpenBLAS ends its threads for a fork; others would be missing in the new process.
            assert len(os.listdir("/proc/self/task")) == 1, "an import has started threads"
            _send(channel, pid)
            ended = os.pidfd_open(pid)
            running[ended] = pid, channel
            selector.register(ended, selectors.EVENT_READ)


def _send(channel: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # where nobody waits for the process any more
        channel.send(number.to_bytes(4, "big"))


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Makes this process look as if it had just been started for ``request``."""
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    # The objects of the server have the right encoding; only a terminal would be read and written differently.
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # it was found in the server's environment
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _run(command: list[str]) -> None:
    if command[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(command[0]).resolve().parent)
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(Path(__file__).resolve().parent.parent / "scripts")
    # Ctrl-C at a terminal is for the tests, which may still need this server to clean up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    request, streams = _serve(control)
    _become(request, streams)
    code = 0
    try:
        _run(request["command"])
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    _end(code)


def _exit_code(error: SystemExit) -> int:
    if isinstance(error.code, int):
        return error.code & 0xFF
    if error.code is not None:
        print(error.code, file=sys.stderr)
    return int(error.code is not None)


def _end(code: int) -> NoReturn:
    """Ends as the interpreter does, but for taking apart all modules: for these libraries that takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError:
            code = code or 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    _main()
