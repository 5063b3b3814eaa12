"""Keys of the gateway's clients: make one, list them, revoke one; a running gateway knows at once.

Example: marquee keys add shop --scope predict --rate 100/second
"""

import json as jsonlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import tyro

from marquee.commands.cli import parse_subcommand
from marquee.commands.main import interruptible
from marquee.gateway.access.scope import Scope
from marquee.serving.defaults import DEFAULT_STATE

State = Annotated[Path, tyro.conf.arg(help="State folder of the gateway.")]
File = Annotated[Optional[Path], tyro.conf.arg(help="File of the keys (default: keys.json in --state).")]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print one JSON object.")]


def add(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
    /,
    scope: tuple[Scope, ...] = ("predict",),
    rate: Optional[str] = None,
    days: Optional[float] = None,
    state: State = DEFAULT_STATE,
    file: File = None,
    json: Json = False,
) -> int:
    """Make a key and print it; it is shown this once, and stored as a digest only.

    Example: marquee keys add shop --scope predict explain --rate 100/second --days 90

    A client may have several keys, so that it can change from one to the next; those with the same rate share it.

    Args:
        name: The client's name.
        scope: What the key allows: predict, explain, manage.
        rate: Items (images, rows) that the client may send, such as 100/second or 5000/hour (default: any number).
        days: Days after which the key expires (default: never).
    """
    with interruptible():
        from marquee.gateway.access.keys import KEYS_FILE, KeyStore, id_of
    try:
        key = KeyStore(file or state / KEYS_FILE).add(name, scope, rate, days)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if json:
        print(jsonlib.dumps({"id": id_of(key), "name": name, "key": key}))
    else:
        print(key)
        print(f"key {id_of(key)} of {name}: keep it now, it cannot be shown again", file=sys.stderr)
    return 0


def list_(state: State = DEFAULT_STATE, file: File = None, json: Json = False) -> None:
    """List the keys, without what is secret in them.

    Example: marquee keys list --json
    """
    with interruptible():
        from marquee.gateway.access.keys import KEYS_FILE, KeyStore
    for key in (keys := KeyStore(file or state / KEYS_FILE).entries()):
        if not json:
            until = "" if key.expires is None else f", {'expired' if key.is_expired() else 'expires'} {key.expires}"
            print(f"{key.id} {key.name}: {', '.join(key.scopes)}; {key.rate or 'any number of items'}{until}")
    if json:
        shown = ("id", "name", "scopes", "rate", "created", "expires")
        entries = [{**{field: getattr(key, field) for field in shown}, "expired": key.is_expired()} for key in keys]
        print(jsonlib.dumps({"keys": entries}))


def revoke(
    identifier: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")],
    /,
    state: State = DEFAULT_STATE,
    file: File = None,
    json: Json = False,
) -> None:
    """Take a key away: it is refused from the next request on.

    Example: marquee keys revoke 3f9a1c2b

    Args:
        identifier: The key's ID, which marquee keys list shows.
    """
    with interruptible():
        from marquee.gateway.access.keys import KEYS_FILE, KeyStore
    key = KeyStore(file or state / KEYS_FILE).revoke(identifier)
    print(jsonlib.dumps({"id": key.id, "name": key.name}) if json else f"revoked {key.id} of {key.name}")


def main() -> int | None:
    """Entry point."""
    commands: dict[str, Callable[..., int | None]] = {"add": add, "list": list_, "revoke": revoke}
    return parse_subcommand("keys", commands, __doc__ or "")
