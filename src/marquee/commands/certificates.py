"""Make certificates for development, so that a gateway on your own machines can be tried with TLS.

Example: marquee certificates tls --host localhost 127.0.0.1
"""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible


def certificates(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    host: tuple[str, ...] = ("localhost", "127.0.0.1"),
    client: Optional[str] = None,
    days: float = 365,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Writes an authority's certificate, and a certificate and a private key that it signed for the gateway.

    Args:
        folder: Folder for the files.
        host: Names and addresses by which clients call the gateway.
        client: Name of a client that gets a certificate, too, for a gateway that asks for one.
        days: Days until they expire.
        json: Print one JSON object.
    """
    with interruptible():
        from marquee.gateway.access.certificates import make_certificates
    try:
        made = make_certificates(folder, host, client, days)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if json:
        print(jsonlib.dumps({name: None if path is None else str(path) for name, path in vars(made).items()}))
        return 0
    print(f"{made.certificate}, {made.key}: the gateway's, for {', '.join(host)}")
    if client is not None:
        print(f"{made.client_certificate}, {made.client_key}: the client's")
    tls = ["--tls-certificate", made.certificate, "--tls-key", made.key]
    tls += [] if client is None else ["--tls-client-authority", made.authority]
    print(f"{made.authority}: whom clients trust{'' if client is None else ', and the gateway'}")
    print("For development only: no authority that others trust has signed them.")
    print(f"next: {hints.command('serve', 'start', 'NAME', '--gateway', 8443, *tls)}")
    return 0


def main() -> int:
    """Entry point."""
    return parse_arguments("certificates", certificates, __doc__)
