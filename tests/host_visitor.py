"""Starts a server of examples/hosts on a loopback interface of its own, and asks it for answers.

Ray and KServe's server listen on every address of a machine, so tests run this program in a network namespace that has
none: ``unshare --net python host_visitor.py HOST.py RUN PROBE < requests.json > answers.json``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import requests

ADDRESS = "http://127.0.0.1:8000"
SECONDS = 240.0


def main() -> None:
    """Reads ``[{"path", "body", "type"}, ...]`` with bodies in base64, writes ``[[status, answer], ...]``."""
    host, run, probe = sys.argv[1:4]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    wanted = json.load(sys.stdin)
    # Its log is this program's; a session of its own, so that nothing that it starts is left.
    with subprocess.Popen([sys.executable, host, run, "8000"], stdout=sys.stderr, start_new_session=True) as server:
        try:
            wait_until_ready(server, probe)
            with ThreadPoolExecutor(8) as pool:
                json.dump(list(pool.map(ask, wanted)), sys.stdout)
        finally:
            end(server)


def wait_until_ready(server: "subprocess.Popen[bytes]", probe: str) -> None:
    """Until the path answers 200."""
    until = time.monotonic() + SECONDS
    while not is_ready(probe):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        if time.monotonic() > until:
            raise SystemExit(f"the server was not ready after {SECONDS:g} s")
        time.sleep(0.2)


def is_ready(probe: str) -> bool:
    """Whether the path answers 200."""
    try:
        return requests.get(ADDRESS + probe, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def ask(wanted: dict[str, str]) -> tuple[int, Any]:
    """Status and JSON of the answer to one request."""
    headers = {"Content-Type": wanted["type"]}
    response = requests.post(ADDRESS + wanted["path"], b64decode(wanted["body"]), headers=headers, timeout=SECONDS)
    return response.status_code, response.json()


def end(server: "subprocess.Popen[bytes]") -> None:
    """As a service manager does: first politely, then not."""
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
