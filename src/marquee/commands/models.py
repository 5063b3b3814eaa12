"""Manage models on the server: list, register, scale, set the default version, unregister; and renew access tokens.

Example: marquee models scale photos --workers 4
"""

import json as jsonlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import tyro

from marquee.commands.cli import parse_subcommand
from marquee.commands.main import interruptible
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE

if TYPE_CHECKING:
    from marquee.serving.client import Client

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
State = Annotated[Path, tyro.conf.arg(help="State folder of marquee serve start.")]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print one JSON object.")]
Config = Annotated[Path, tyro.conf.arg(help="TorchServe settings, for a server that marquee serve did not start.")]


def list_(
    json: Json = False,
    state: State = DEFAULT_STATE,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List models, versions and workers.

    Example: marquee models list
    """
    client = _connect(state, config)
    for entry in client.list_models():
        for version in client.describe(entry["modelName"], "all"):
            if json:
                print(jsonlib.dumps(version))
                continue
            workers = ", ".join(worker["status"] for worker in version["workers"]) or "none"
            print(f"{version['modelName']} {version['modelVersion']}: workers {workers}")


def register(
    name: Name,
    /,
    workers: int = 1,
    json: Json = False,
    state: State = DEFAULT_STATE,
    config: Config = DEFAULT_CONFIG,
) -> int:
    """Register NAME.mar of the model store and start workers; needs marquee serve start --enable-model-api.

    Example: marquee models register photos

    Args:
        name: Archive in the store, with or without .mar; NAME=VERSION for NAME-VERSION.mar.
        workers: Workers to start.
    """
    if workers < 1:
        # TorchServe registers such a model without a word, and then refuses every request.
        print(
            f"error: --workers {workers}: expected 1 or more; a model without workers answers nothing", file=sys.stderr
        )
        return 2
    with interruptible():
        from marquee.serving.store import Reference
    reference = Reference.parse(name)
    file = f"{reference.name}.mar" if reference.version is None else f"{reference.name}-{reference.version}.mar"
    _print_status(_connect(state, config).register(file, workers), json)
    return 0


def scale(
    name: Name,
    /,
    workers: int,
    version: Optional[str] = None,
    json: Json = False,
    state: State = DEFAULT_STATE,
    config: Config = DEFAULT_CONFIG,
) -> int:
    """Set the number of workers and wait until they are READY.

    Example: marquee models scale photos --workers 4

    Args:
        name: The model's name.
        workers: Workers to run.
        version: The version; the default version when omitted.
    """
    if workers < 0:
        print(f"error: --workers {workers}: expected 0 or more", file=sys.stderr)
        return 2
    client = _connect(state, config)
    from marquee.serving.readiness import wait_for_workers

    status = client.scale(name, workers, version)
    wait_for_workers(client, name, workers, version)
    _print_status(status, json, workers_ready=workers)
    return 0


def default(
    name: Name,
    version: Name,
    /,
    json: Json = False,
    state: State = DEFAULT_STATE,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Make a version the default, which answers requests that name none.

    Example: marquee models default photos 2.0

    Args:
        name: The model's name.
        version: The version.
    """
    _print_status(_connect(state, config).set_default(name, version), json)


def unregister(
    name: Name,
    /,
    version: Optional[str] = None,
    json: Json = False,
    state: State = DEFAULT_STATE,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Remove a model from the server; needs marquee serve start --enable-model-api.

    Example: marquee models unregister photos --version 1.0

    Args:
        name: The model's name.
        version: The version; the default version when omitted.
    """
    _print_status(_connect(state, config).unregister(name, version), json)


def token(
    kind: Annotated[Literal["inference", "management"], tyro.conf.Positional],
    /,
    json: Json = False,
    state: State = DEFAULT_STATE,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Replace an access token; the old one is refused from then on, and the key file has the new one.

    Example: marquee models token inference

    Args:
        kind: The token to replace.
    """
    _connect(state, config).new_token(kind)
    _print_status(f"the {kind} token was replaced; see the key file", json)


def _connect(state: Path, config: Path) -> "Client":
    with interruptible():
        from marquee.serving.server import connect
    return connect(state, config)


def _print_status(status: str, json: bool, **facts: int) -> None:
    if json:
        print(jsonlib.dumps({"status": status, **facts}))
    else:
        print(f"{status}{''.join(f', {name}: {value}' for name, value in facts.items())}")


def main() -> int | None:
    """Entry point."""
    commands: dict[str, Callable[..., int | None]] = {
        "list": list_,
        "register": register,
        "scale": scale,
        "default": default,
        "unregister": unregister,
        "token": token,
    }
    return parse_subcommand("models", commands, __doc__ or "")
