"""marquee serve start --gateway: marquee serve run as a process of its own, which outlives this one."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from marquee.gateway.record import GatewayRecord, recorded, refuse_second
from marquee.locks import LockedError, owner_of
from marquee.serving import launch
from marquee.serving.logs import GATEWAY_LOG

_END_SECONDS = 120.0
"""For a gateway whose start is interrupted."""
_TICK = 0.1
_RESULTS = ("{", "serving ")
"""How the lines begin that say that it is ready, which the caller says itself."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\S+ ")


class Background:
    """A gateway that starts.

    Args:
        state: the state folder.
        arguments: of ``marquee serve run``.

    Raises:
        OperationError: one runs there already.
        LockedError: another command works in the folder.
    """

    def __init__(self, state: Path, arguments: list[str]) -> None:
        refuse_second(state)
        if (owner := owner_of(state)) is not None:
            raise LockedError(state, owner)
        self._state, self.log = state, state / "logs" / GATEWAY_LOG
        self.log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            self._process = subprocess.Popen(
                [*_program(), "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,  # neither Ctrl-C nor the end of this terminal reaches it
            )
        finally:
            os.close(handle)
        self._read = 0

    def wait(self) -> GatewayRecord | None:
        """Passes on what it says until it is ready; its record, or None when it has ended instead."""
        try:
            while True:
                ended = self._process.poll() is not None
                self._pass_on()
                if ended:
                    self._explain_silence()
                    return None
                record = recorded(self._state)
                if record is not None and record.pid == self._process.pid:
                    return record
                time.sleep(_TICK)
        except BaseException:
            self._process.terminate()
            self._process.wait(_END_SECONDS)
            raise

    def last_document(self) -> str | None:
        """The last line of JSON in its log that is no line of the access log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.startswith("{") and '"differences": [' in line), None)

    def _pass_on(self) -> None:
        with open(self.log, "rb") as stream:
            stream.seek(self._read)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if not line.startswith(_RESULTS):
                print(_TIME.sub("", line, count=1), file=sys.stderr, flush=True)

    def _explain_silence(self) -> None:
        code = self._process.returncode
        if code < 0:
            print(f"error: the gateway was ended by signal {-code}; see {self.log}", file=sys.stderr)


def _program() -> list[str]:
    """How to run marquee serve as this process was run, so that messages name commands that the user knows."""
    started = Path(sys.argv[0])
    if started.name == "serve.py" and started.is_file():
        return [launch.INTERPRETER, str(started)]
    if started.name == "marquee" and started.is_file():
        return [launch.INTERPRETER, str(started), "serve"]
    return [launch.INTERPRETER, "-m", "marquee", "serve"]
