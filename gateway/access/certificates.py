"""Certificates for development: an authority of one's own, and what it signs for a gateway and for its clients.

The authority's private key is thrown away, so that nobody can make other certificates that its clients would trust.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from marquee.gateway.access.private_file import write_private
from marquee.serving.errors import OperationError

if TYPE_CHECKING:
    import trustme

MOST_DAYS = 825
"""Longer ones are refused by some clients."""
_CLIENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SKEW = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files. Only their owner may read the private keys."""

    authority: Path
    """What clients trust; and, where there is a client's certificate, the gateway."""
    certificate: Path
    """The gateway's."""
    key: Path
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        named = (self.authority, self.certificate, self.key, self.client_certificate, self.client_key)
        return tuple(path for path in named if path is not None)


def make_certificates(folder: Path, hosts: Sequence[str], client: str | None = None, days: float = 365) -> Certificates:
    """Makes an authority, a certificate for a gateway and, where wanted, one for a client.

    Args:
        folder: for the files; made when missing.
        hosts: names and addresses by which clients call the gateway, such as ``localhost`` and ``127.0.0.1``.
        client: whose certificate it is; None: clients need none.
        days: until they expire.

    Raises:
        ValueError: a host, the client or the days cannot be; the message starts with the name of the argument.
        OperationError: one of the files is there already, or trustme is not installed.
        OSError: they cannot be written.
    """
    if not hosts:
        raise ValueError("host: expected at least one name or address")
    if client is not None and (client in ("server", "authority") or not _CLIENT.fullmatch(client)):
        raise ValueError(
            f"client: expected a name of letters, digits and hyphens, other than server and authority, got {client!r}"
        )
    if not 0 < days <= MOST_DAYS:
        raise ValueError(f"days: expected a number above 0, and at most {MOST_DAYS}, got {days:g}")
    try:
        from trustme import CA
    except ModuleNotFoundError as error:
        raise OperationError("certificates need the package trustme; pip install 'marquee[gateway]'") from error

    made = _name(folder, client)
    for path in made.files:
        if path.exists():
            raise OperationError(f"{path}: exists already; remove it, or name another folder")
    authority = CA(path_length=0, organization_name="Marquee, for development only")
    now = datetime.now(timezone.utc)
    first, last = now - _SKEW, now + timedelta(days=days)
    try:
        server = authority.issue_cert(*hosts, common_name=hosts[0], not_before=first, not_after=last)
    except ValueError as error:
        raise ValueError(f"host: not a name or an address: {', '.join(hosts)}: {error}") from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write(made.key, made.certificate, server)
    if client is not None and made.client_key is not None and made.client_certificate is not None:
        issued = authority.issue_cert(client, common_name=client, not_before=first, not_after=last)
        _write(made.client_key, made.client_certificate, issued)
    made.authority.write_bytes(authority.cert_pem.bytes())
    return made


def _name(folder: Path, client: str | None) -> Certificates:
    folder = Path(folder)
    return Certificates(
        authority=folder / "authority.pem",
        certificate=folder / "server.pem",
        key=folder / "server.key",
        client_certificate=None if client is None else folder / f"{client}.pem",
        client_key=None if client is None else folder / f"{client}.key",
    )


def _write(key: Path, certificate: Path, issued: "trustme.LeafCert") -> None:
    write_private(key, issued.private_key_pem.bytes())
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
