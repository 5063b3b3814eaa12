"""The keys of clients, and the file that holds them.

A key is shown once, when it is made. The file has only its SHA-256: a key has 256 random bits, so nothing can be tried
out against its digest, and a slow hash, which passwords need, would only slow down every request.
"""

import hashlib
import hmac
import json
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from marquee.gateway.access.private_file import exclusive, write_private
from marquee.gateway.access.rates import parse_rate
from marquee.gateway.access.scope import SCOPES, Scope
from marquee.handlers.core.schema import SchemaError, from_dict, to_dict
from marquee.serving.errors import OperationError

KEYS_FILE = "keys.json"
"""In the state folder, where no other file is named."""
MOST_DAYS = 3_650
_VERSION = 1
_MOST_BYTES = 16_777_216
_KEY = re.compile(r"marquee_([0-9a-f]{8})_[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w.@+-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is kept of a key."""

    id: str
    """Its public part: to list it, to revoke it, and for logs."""
    name: str
    """The client's name; several keys of one client have the same."""
    sha256: str
    """Digest of the whole key, in hexadecimal."""
    scopes: tuple[Scope, ...]
    created: str
    """ISO 8601, with the zone."""
    rate: str | None = None
    """Items that the client may send, such as ``100/second``; None: any number."""
    expires: str | None = None
    """ISO 8601, with the zone; None: never."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"id: expected 8 hexadecimal digits, got {self.id!r}")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: expected up to 64 letters, digits and . _ - + @, got {self.name[:80]!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("sha256: expected 64 hexadecimal digits")
        if not self.scopes or len(set(self.scopes)) != len(self.scopes):
            raise ValueError(f"scopes: expected some of {', '.join(SCOPES)}, each once, got {list(self.scopes)}")
        if self.rate is not None:
            parse_rate(self.rate)
        for field in ("created", "expires"):
            text = getattr(self, field)
            if text is not None and datetime.fromisoformat(text).tzinfo is None:
                raise ValueError(f"{field}: expected a time with its zone, got {text!r}")

    def is_expired(self, now: datetime | None = None) -> bool:
        """Whether its time has passed.

        Args:
            now: with its zone; None: by this machine's clock.
        """
        return self.expires is not None and datetime.fromisoformat(self.expires) <= (now or _now())

    def matches(self, key: str) -> bool:
        """Whether this is the key, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(self.sha256, _digest(key))


class KeyStore:
    """The file of keys, for those who make and revoke them; what they do to it at once is done one after the other.

    Args:
        path: the file; it and its folder are made with the first key.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def entries(self) -> tuple[Key, ...]:
        """All keys that were not revoked, the expired ones too, in the order in which they were made.

        Raises:
            OperationError: the file cannot be read, or is damaged.
        """
        try:
            return read_keys(self.path)
        except FileNotFoundError:
            return ()

    def add(
        self, name: str, scopes: Sequence[Scope] = ("predict",), rate: str | None = None, days: float | None = None
    ) -> str:
        """Makes a key, and returns it; it cannot be had again.

        Args:
            name: of the client; it may have other keys already.
            scopes: what the key allows.
            rate: items that the client may send, such as ``100/second`` or ``10/2 hours``; None: any number.
            days: after which it expires; None: never.

        Raises:
            ValueError: one of these has a value that it cannot have; the message starts with its name.
            OperationError: the file cannot be read, or is damaged.
            OSError: it cannot be written.
        """
        if days is not None and not 0 < days <= MOST_DAYS:
            raise ValueError(f"days: expected a number above 0, and at most {MOST_DAYS}, got {days:g}")
        now = _now()

        def make() -> tuple[str, Key]:
            identifier = secrets.token_hex(4)
            secret = f"marquee_{identifier}_{secrets.token_hex(32)}"
            key = Key(
                id=identifier,
                name=name,
                sha256=_digest(secret),
                scopes=tuple(scopes),
                created=_text(now),
                rate=rate,
                expires=None if days is None else _text(now + timedelta(days=days)),
            )
            return secret, key

        secret, key = make()
        with exclusive(self.path):
            known = self.entries()
            while any(key.id == other.id for other in known):
                secret, key = make()
            self._write((*known, key))
        return secret

    def revoke(self, identifier: str) -> Key:
        """Takes a key away: whoever sends it from now on is refused.

        Args:
            identifier: the key's public part.

        Raises:
            OperationError: there is no such key, or the file cannot be read, or is damaged.
            OSError: it cannot be written.
        """
        if not self.path.exists():
            raise OperationError(f"{self.path}: there is no such file, and so there are no keys")
        with exclusive(self.path):
            known = self.entries()
            revoked = next((key for key in known if key.id == identifier), None)
            if revoked is None:
                raise OperationError(f"{self.path}: no key has the ID {identifier!r}")
            self._write(tuple(key for key in known if key is not revoked))
        return revoked

    def _write(self, keys: tuple[Key, ...]) -> None:
        document = {"version": _VERSION, "keys": to_dict(keys)}
        write_private(self.path, (json.dumps(document, indent=2) + "\n").encode())


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file.

    Raises:
        FileNotFoundError: there is no such file.
        OperationError: it cannot be read, or is damaged; the message says what is wrong with it, in one line.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            raise OperationError(f"{path}: expected a file of at most {_MOST_BYTES:,} bytes, made by marquee keys add")
        return _parse(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OperationError(f"{path}: the keys cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise OperationError(
            f"{path}: the file of keys is damaged: {error}; put a copy back, or remove it and make new keys"
        ) from error


def id_of(key: str) -> str | None:
    """The public part of a key; None for a text that is no key."""
    match = _KEY.fullmatch(key)
    return match and match[1]


def hide_keys(text: str) -> str:
    """A text without what is secret in any key that it contains."""
    return _KEY.sub(r"marquee_\1_***", text)


def _parse(content: bytes) -> tuple[Key, ...]:
    document: Any = json.loads(content)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise SchemaError('expected {"version": 1, "keys": [...]}')
    if document.get("version") != _VERSION:
        raise SchemaError(f"version: expected {_VERSION}, got {document.get('version')!r}")
    keys = tuple(from_dict(Key, entry, f"keys[{i}]") for i, entry in enumerate(document["keys"]))
    if len({key.id for key in keys}) != len(keys):
        raise SchemaError("keys: two have the same id")
    return keys


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
