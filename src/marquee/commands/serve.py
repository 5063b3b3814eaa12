"""Start TorchServe with models of the store and verify that it answers as in evaluation; stop it; show its status.

Example: marquee serve start photos
"""

import json as jsonlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_subcommand
from marquee.commands.main import interruptible
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def start(
    names: Annotated[list[str], tyro.conf.Positional],
    /,
    config: Path = DEFAULT_CONFIG,
    store: Optional[Path] = None,
    state: Path = DEFAULT_STATE,
    port: Optional[int] = None,
    enable_model_api: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    timeout: float = 300,
    json: Json = False,
) -> int:
    """Start the server, wait for READY, and replay the golden samples over REST and gRPC.

    Example: marquee serve start photos --port 9080

    Exits with 1, and stops the server, if a model is refused or an answer differs.

    Args:
        names: Archives of the store: "photos" for photos.mar, the version packaged last; "photos=1.0" for another.
            Of several versions of a model, the first is the default.
        config: TorchServe settings.
        store: Folder of archives (default: model_store of --config).
        state: Folder for the process record, tokens and logs.
        port: First of five consecutive ports, instead of those of --config.
        enable_model_api: Allow marquee models register and unregister while serving.
        timeout: Seconds within which the models must be READY.
        json: Print one JSON object.
    """
    if not names:
        print(f"error: no model named; example: {hints.command('serve', 'start', 'photos')}", file=sys.stderr)
        return 2
    if port is not None and not 1 <= port <= 65_531:
        print(f"error: --port {port}: expected 1 to 65531, the first of five ports", file=sys.stderr)
        return 2
    if not timeout > 0:
        print(f"error: --timeout {timeout}: expected seconds above 0", file=sys.stderr)
        return 2
    with interruptible():
        from marquee.serving.verified import AnswersDifferError, start_verified
    try:
        service = start_verified(
            names,
            config=config,
            store=store,
            folder=state,
            port=port,
            settings={"enable_model_api": "true"} if enable_model_api else None,
            timeout=timeout,
        )
    except AnswersDifferError as error:
        if json:
            facts = {"pid": error.server.pid, "checked": error.checked, "differences": error.differences}
            print(jsonlib.dumps({**facts, "running": False}))
        for line in error.differences:
            print(f"differs: {line}", file=sys.stderr)
        raise
    if json:
        facts = {"pid": service.server.pid, "checked": service.checked, "differences": []}
        print(jsonlib.dumps({**facts, "running": True}))
    else:
        print(f"serving {', '.join(service.server.models)} at {service.url}: {service.checked} golden answers equal")
    return 0


def stop(state: Path = DEFAULT_STATE) -> int:
    """Stop the server that start started, and what is left of one that was killed or whose state folder was deleted.

    Example: marquee serve stop

    Args:
        state: State folder of the server.
    """
    with interruptible():
        from marquee.serving import server as servers
    with servers.exclusive(state, "marquee serve stop"):
        server = servers.find(state)
        if server is not None:
            servers.stop(server)
            print(f"stopped pid {server.pid}")
            return 0
        if left := servers.stop_left_over(state):
            print(f"stopped {left}, of which {state} had no record")
            return 0
    print(f"error: no server is running from {state}", file=sys.stderr)
    return 1


def status(state: Path = DEFAULT_STATE, json: Json = False) -> int:
    """Show the server, its models and their workers; exit with 1 if none is running, or if it does not answer.

    Example: marquee serve status --json

    Args:
        state: State folder of the server.
        json: Print one JSON object.
    """
    with interruptible():
        from marquee.serving import server as servers
    server = servers.find(state)
    if server is None:
        left = servers.describe_left_over(state)
        print(jsonlib.dumps({"running": False, "left_over": left}) if json else _nothing(state, left))
        return 1
    description = servers.describe(server)
    failed = "error" in description
    if json:
        print(jsonlib.dumps(description))
        return int(failed)
    print(f"pid {server.pid}, inference {server.addresses.inference}, management {server.addresses.management}")
    for model in description["models"]:
        print(f"{model['name']} {model['version']}: workers {', '.join(model['workers']) or 'none'}")
    if failed:
        print(f"error: {description['error']}", file=sys.stderr)
    return int(failed)


def _nothing(state: Path, left: str) -> str:
    nothing, stop_command = f"no server is running from {state}", hints.command("serve", "stop", "--state", state)
    return f"{nothing}; {left} are left of one; end them: {stop_command}" if left else nothing


def main() -> int:
    """Entry point."""
    commands: dict[str, Callable[..., int]] = {"start": start, "stop": stop, "status": status}
    return parse_subcommand("serve", commands, __doc__ or "")
