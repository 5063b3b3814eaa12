"""The program that forks: it imports what takes long once, and makes a process out of each request (see forked.py).

A request comes over a connection of its own to the listening socket: its JSON, with the streams of the new process. The
answer is the pid, and at the end the status. The server must not compute: threads do not survive a fork.
"""

import atexit
import gc
import io
import json
import multiprocessing.forkserver
import multiprocessing.util
import os
import re
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
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
PROJECT = Path(__file__).resolve().parent.parent
STREAMS = 3
"""Of every process; what comes after them in a request are descriptors for the command."""
READ_ONCE = ("CUDA_", "LD_", "MALLOC_", "MKL_", "OMP_NUM_THREADS", "OPENBLAS_", "PYTHON", "TORCH_")
"""How the variables begin that a process reads when it starts or imports, and never again.

Those that say how threads wait are not among them: they change no result, and the commands set them themselves."""
REQUEST_BYTES = 1 << 20
"""Of one request, its environment included."""


def main(listener: socket.socket, lifeline: socket.socket, interpreter: str) -> None:
    """Imports, and serves until the other end of ``lifeline`` is closed.

    Args:
        listener: takes the requests.
        lifeline: never written to.
        interpreter: of the servers that forked commands start.
    """
    sys.path[0] = str(PROJECT)
    forked = import_module("tests.forked")
    sys.path[0] = str(PROJECT / "scripts")
    # Ctrl-C at a terminal is for the tests, which may still need this server to clean up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        import_module(name)
    import_module("marquee.serving.launch").INTERPRETER = interpreter
    # At the end of a process torch takes its libraries apart and sums up what was compiled, which takes 0.1 s.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        if (alive := finalizer.peek()) and alive[1].__module__ == "torch.library":
            finalizer.atexit = False
    atexit.unregister(import_module("torch._dynamo.utils").dump_compile_times)
    gc.freeze()
    door, started_with = listener.getsockname(), read_once(dict(os.environ))
    request, streams = _Server(listener, lifeline).serve()
    _become(request, streams[:STREAMS])
    _fork_the_fork_server(door, started_with)
    is_command = not request["command"][0].startswith(("-u", "-c"))
    forked.use(door, for_children=is_command and not request["plain"])
    code = 0
    try:
        _run(request["command"], streams[STREAMS:])
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    _end(code)


class _Server:
    def __init__(self, listener: socket.socket, lifeline: socket.socket) -> None:
        self.listener = listener
        self.lifeline = lifeline
        self.selector = selectors.DefaultSelector()
        self.running: dict[int, tuple[int, socket.socket, bool]] = {}
        """By the descriptor of a process: its pid, whoever asked for it, and whether it ends with that one."""

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """Forks for each request; returns in the forked process only, with the request and its streams."""
        self.selector.register(self.lifeline, selectors.EVENT_READ)
        self.selector.register(self.listener, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.lifeline:
                    os._exit(0)
                elif key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    if given := self._fork(connection):
                        return given
                elif key.data is not None:
                    self._kill(key.data)
                else:
                    self._report(key.fd)

    def _fork(self, connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
        message, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES, STREAMS + 2)
        if not message:
            connection.close()
            return None
        request = json.loads(message)
        pid = os.fork()
        if not pid:
            self.selector.close()
            for descriptor, (_, other, _) in self.running.items():
                os.close(descriptor)
                other.close()
            for own in (connection, self.listener, self.lifeline):
                own.close()
            return request, streams
        for stream in streams:
            os.close(stream)
        # OpenBLAS ends its threads for a fork; others would be missing in the new process.
        assert len(os.listdir("/proc/self/task")) == 1, "an import has started threads"
        _send(connection, pid)
        ended = os.pidfd_open(pid)
        self.running[ended] = pid, connection, request["tied"]
        self.selector.register(ended, selectors.EVENT_READ)
        if request["tied"]:
            self.selector.register(connection, selectors.EVENT_READ, ended)
        return None

    def _kill(self, tied: int) -> None:
        """The one that asked for this process is gone."""
        if tied in self.running:  # and was not reported a moment ago
            pid, connection, _ = self.running[tied]
            self.selector.unregister(connection)
            os.kill(pid, signal.SIGKILL)  # there at least until its status is read

    def _report(self, ended: int) -> None:
        """The process of this descriptor has ended."""
        pid, connection, is_tied = self.running.pop(ended)
        self.selector.unregister(ended)
        if is_tied:
            with suppress(KeyError):  # unregistered when it went
                self.selector.unregister(connection)
        os.close(ended)
        with connection:
            _send(connection, os.waitpid(pid, 0)[1])


def _send(connection: socket.socket, number: int) -> None:
    with suppress(OSError):  # where nobody waits for the process any more
        connection.send(number.to_bytes(4, "big"))


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Makes this process look as if it had just been started for ``request``."""
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    # The objects of the server have the right encoding; only a terminal would be read and written differently.
    is_unbuffered = bool(request["environment"].get("PYTHONUNBUFFERED"))
    sys.stdout = sys.__stdout__ = _stream(sys.stdout, is_unbuffered, os.isatty(1))
    sys.stderr = sys.__stderr__ = _stream(sys.stderr, is_unbuffered, True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # it was found in the server's environment
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if request["plain"]:
        for name in list(sys.modules):
            if name.partition(".")[0] == "marquee":
                del sys.modules[name]
    sys.path[1:1] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))


def _stream(like: Any, is_unbuffered: bool, line_buffering: bool) -> io.TextIOWrapper:
    """As the interpreter opens it."""
    number, size = like.fileno(), 0 if is_unbuffered else -1
    binary = open(number, "wb", size, closefd=False)  # noqa: SIM115 - for as long as the process lives
    how = {"line_buffering": line_buffering, "write_through": is_unbuffered}
    return io.TextIOWrapper(binary, like.encoding, like.errors, **how)


def read_once(environment: dict[str, str]) -> dict[str, str]:
    """The variables of :data:`READ_ONCE` that make a difference."""
    found = {name: value for name, value in environment.items() if name.startswith(READ_ONCE)}
    found.pop("PYTHONUNBUFFERED", None)  # see _become
    if set(found.get("PYTHONPATH", "").split(os.pathsep)) <= {"", str(PROJECT), str(PROJECT / "src")}:
        found.pop("PYTHONPATH", None)
    return found


def ask(
    door: str,
    command: list[str],
    descriptors: list[int],
    *,
    folder: str | None = None,
    environment: dict[str, str] | None = None,
    new_session: bool = False,
) -> socket.socket:
    """Asks the server for a process; what is returned gives its pid, and at its end its status, as four bytes each.

    Args:
        door: of the server.
        command: what comes after the name of the interpreter.
        descriptors: the streams of the process, and after them what the command gets as more arguments.
        folder: this one's by default.
        environment: this one's by default.
        new_session: as Popen's ``start_new_session``.
    """
    request = {
        "command": command,
        "folder": folder or os.getcwd(),
        "environment": dict(os.environ) if environment is None else environment,
        "new_session": new_session,
        "tied": False,
        "plain": False,
    }
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(door)
    socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
    return connection


def _fork_the_fork_server(door: str, started_with: dict[str, str]) -> None:
    """The fork server of multiprocessing, which would import the libraries again, is forked by this server, too."""
    spawn = multiprocessing.util.spawnv_passfds

    def spawn_or_fork(path: bytes, arguments: list[str], descriptors: list[int]) -> int:
        found = re.fullmatch(r"(from multiprocessing\.forkserver import main; main\()\d+, \d+(, .*)", arguments[-1])
        if not found or read_once(dict(os.environ)) != started_with:
            return spawn(path, arguments, descriptors)
        with ask(door, ["-c", found[1], found[2]], [0, 1, 2, *descriptors]) as connection:
            connection.recv(4)
            # Its parent looks after it by waitpid: a child of its own, which ends when it ends.
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                os.dup2(connection.fileno(), 0)
                os.closerange(1, os.sysconf("SC_OPEN_MAX"))
                os.read(0, 4)
                os._exit(0)
        return pid

    multiprocessing.util.spawnv_passfds = spawn_or_fork


def _run(command: list[str], descriptors: list[int]) -> None:
    if command[0] == "-u":  # a worker of pytest-xdist, by execnet's popen_args
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(command[command.index("-c") + 1], main.__dict__)
    elif command[0] == "-c":
        exec(f"{command[1]}{', '.join(map(str, descriptors))}{command[2]}", {"__name__": "__main__"})
    elif command[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(command[0]).resolve().parent)
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


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
    main(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3]), sys.argv[3])
