"""Start TorchServe with models of the store and verify that it answers as in evaluation; stop it; show its status.

With --gateway PORT, clients of other servers' protocols are answered, too, and no request is lost when a worker dies.

Example: marquee serve start photos
"""

import json as jsonlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from marquee import hints
from marquee.commands.cli import parse_subcommand
from marquee.commands.main import interruptible
from marquee.commands.serve_options import GatewayOptions, ServerOptions, port_of_platform
from marquee.log import log_to_stdout
from marquee.serving.defaults import DEFAULT_STATE

if TYPE_CHECKING:
    from marquee.gateway.record import GatewayRecord
    from marquee.serving.verified import AnswersDifferError, Service

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Names = Annotated[
    list[str],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help='Archives of the store: "photos" for photos.mar, the version packaged last; "photos=1.0" for another. Of '
        "several versions of a model, the first is the default.",
    ),
]
Server = Annotated[ServerOptions, tyro.conf.arg(name="")]
Doors = Annotated[GatewayOptions, tyro.conf.arg(name="")]
SERVER, DOORS = ServerOptions(), GatewayOptions()


def start(names: Names, /, server: Server = SERVER, doors: Doors = DOORS, json: Json = False) -> int:
    """Start the server in the background, wait for READY, and replay the golden samples over REST and gRPC.

    Example: marquee serve start photos --port 9080

    Example: marquee serve start photos --gateway 8090

    Exits with 1, and stops the server, if a model is refused or an answer differs.

    Args:
        json: Print one JSON object.
    """
    try:
        server.check(names, "start")
        config = doors.to_config(server.state, names)
    except ValueError as error:
        return _usage(error)
    if config is not None:
        return _start_in_background(server.state, json)
    with interruptible():
        from marquee.gateway.record import refuse_second
        from marquee.serving.verified import AnswersDifferError, start_verified
    refuse_second(server.state)
    try:
        service = start_verified(names, timeout=server.timeout, **server.settings())
    except AnswersDifferError as error:
        _show_differences(error, json)
        raise
    _show_started(service, None, json)
    return 0


def run(names: Names, /, server: Server = SERVER, doors: Doors = DOORS, json: Json = False) -> int:
    """Start the server as start does, keep it alive, and stay in the foreground until SIGTERM or Ctrl-C.

    Example: marquee serve run photos --gateway 8090

    The log goes to stdout. A front end of TorchServe that dies is started again with its models, versions and workers.
    At the end, requests under way are answered first. Exits with 0 after a signal, with 1 if it cannot start or go on.

    Args:
        json: Print one JSON object when it is ready.
    """
    try:
        if doors.gateway is None and (port := port_of_platform()) is not None:
            doors = replace(doors, gateway=port)
        server.check(names, "run")
        config = doors.to_config(server.state, names)
    except ValueError as error:
        return _usage(error)
    log_to_stdout()
    with interruptible():
        from marquee.gateway import access_log, process
        from marquee.serving.prepare import prepare
        from marquee.serving.verified import AnswersDifferError
    access_log.log_to(sys.stdout, doors.access_log)
    plan = process.Plan(
        wanted=prepare(names, **server.settings()),
        gateway=config,
        timeout=server.timeout,
    )
    try:
        process.run(plan, lambda record, service: _show_started(service, record, json))
    except AnswersDifferError as error:
        _show_differences(error, json)
        raise
    return 0


def _usage(error: ValueError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _start_in_background(state: Path, json: bool) -> int:
    with interruptible():
        from marquee.commands.serve_background import Background
        from marquee.serving import server as servers
    background = Background(state, sys.argv[2:])
    record = background.wait()
    if record is None:
        if json and (document := background.last_document()) is not None:
            print(document)
        return 1
    service = servers.find(state)
    if json:
        facts: dict[str, Any] = {"pid": service.pid if service else None, "checked": record.checked, "differences": []}
        print(jsonlib.dumps({**facts, "running": True, "gateway": _gateway_facts(record)}))
    else:
        print(_sentence(service.models if service else (), record, record.checked))
    return 0


def _show_started(service: "Service", record: "GatewayRecord | None", json: bool) -> None:
    if json:
        facts: dict[str, Any] = {"pid": service.server.pid, "checked": service.checked, "differences": []}
        if record is not None:
            facts["gateway"] = _gateway_facts(record)
        print(jsonlib.dumps({**facts, "running": True}), flush=True)
    elif record is not None and record.http is not None:
        print(_sentence(service.server.models, record, service.checked), flush=True)
    else:
        models = ", ".join(service.server.models)
        print(f"serving {models} at {service.url}: {service.checked} golden answers equal", flush=True)


def _sentence(models: tuple[str, ...], record: "GatewayRecord", checked: int) -> str:
    return f"serving {', '.join(models)} at {record.http}, gRPC {record.grpc}: {checked} golden answers equal"


def _gateway_facts(record: "GatewayRecord") -> dict[str, Any]:
    return {"pid": record.pid, "http": record.http, "grpc": record.grpc}


def _show_differences(error: "AnswersDifferError", json: bool) -> None:
    if json:
        facts = {"pid": error.server.pid, "checked": error.checked, "differences": error.differences}
        print(jsonlib.dumps({**facts, "running": False}), flush=True)
    for line in error.differences:
        print(f"differs: {line}", file=sys.stderr)


def stop(state: Path = DEFAULT_STATE) -> int:
    """Stop the server, and what is left of one that was killed or whose state folder was deleted.

    Example: marquee serve stop

    A gateway answers the requests under way first.

    Args:
        state: State folder of the server.
    """
    with interruptible():
        from marquee.gateway import record as records
        from marquee.serving import server as servers
    stopped = []
    server = servers.find(state)
    if (gateway := records.running(state)) is not None:
        in_time = records.end(gateway, records.stop_seconds(state))
        stopped.append(f"the gateway with pid {gateway.pid}" + ("" if in_time else ", which had to be killed"))
        if server is not None and not server.is_running():
            stopped.append(f"pid {server.pid}")
    with servers.exclusive(state, "marquee serve stop"):
        if (server := servers.find(state)) is not None:
            servers.stop(server)
            stopped.append(f"pid {server.pid}")
        elif left := servers.stop_left_over(state):
            stopped.append(f"{left}, of which {state} had no record")
        records.forget(state)
    if not stopped:
        print(f"error: no server is running from {state}", file=sys.stderr)
        return 1
    print(f"stopped {' and '.join(stopped)}")
    return 0


def status(state: Path = DEFAULT_STATE, json: Json = False) -> int:
    """Show the server, its models and their workers; exit with 1 if none is running, or if it does not answer.

    Example: marquee serve status --json

    Args:
        state: State folder of the server.
        json: Print one JSON object.
    """
    with interruptible():
        from marquee.gateway.status import describe
        from marquee.serving import server as servers
    gateway = describe(state)
    server = servers.find(state)
    if server is None:
        left = servers.describe_left_over(state)
        if json:
            facts = {"running": False, "left_over": left}
            print(jsonlib.dumps(facts if gateway is None else {**facts, "gateway": gateway}))
        else:
            print(_nothing(state, left))
            _show_gateway(gateway, state)
        return 1
    description = servers.describe(server)
    failed = "error" in description or (gateway is not None and not gateway["running"])
    if json:
        print(jsonlib.dumps(description if gateway is None else {**description, "gateway": gateway}))
        return int(failed)
    print(f"pid {server.pid}, inference {server.addresses.inference}, management {server.addresses.management}")
    _show_gateway(gateway, state)
    for model in description["models"]:
        print(f"{model['name']} {model['version']}: workers {', '.join(model['workers']) or 'none'}")
    if "error" in description:
        print(f"error: {description['error']}", file=sys.stderr)
    return int(failed)


def _show_gateway(gateway: dict[str, Any] | None, state: Path) -> None:
    if gateway is None:
        return
    if not gateway["running"]:
        command = hints.command("serve", "stop", "--state", state)
        print(f"error: the gateway with pid {gateway['pid']} has ended; end what is left: {command}", file=sys.stderr)
    elif gateway["http"] is None:
        print(f"kept alive by pid {gateway['pid']}")
    else:
        ready = {True: "ready", False: "not ready", None: "whether it is ready only its clients can see"}
        print(
            f"gateway pid {gateway['pid']}, HTTP {gateway['http']}, gRPC {gateway['grpc']}: {ready[gateway['ready']]}"
        )


def _nothing(state: Path, left: str) -> str:
    nothing, stop_command = f"no server is running from {state}", hints.command("serve", "stop", "--state", state)
    return f"{nothing}; {left} are left of one; end them: {stop_command}" if left else nothing


def main() -> int:
    """Entry point."""
    commands: dict[str, Callable[..., int]] = {"start": start, "run": run, "stop": stop, "status": status}
    return parse_subcommand("serve", commands, __doc__ or "")
