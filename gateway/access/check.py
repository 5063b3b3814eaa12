"""The one check of who may come in, for every door."""

import re
from pathlib import Path
from typing import NoReturn

from marquee import hints
from marquee.gateway.access.caller import ANYBODY, NOBODY, Caller
from marquee.gateway.access.items import count_items
from marquee.gateway.access.keys import KEYS_FILE, Key, KeyStore
from marquee.gateway.access.rates import Rates, parse_rate
from marquee.gateway.access.scope import Scope
from marquee.gateway.access.watched import WatchedKeys
from marquee.gateway.backend import Reply
from marquee.gateway.errors import FORBIDDEN, RATE_LIMITED, UNAUTHENTICATED, GatewayError
from marquee.gateway.gateway import Access
from marquee.serving.defaults import DEFAULT_STATE

_BEARER = re.compile(r"\s*bearer[ \t]+(\S+)\s*", re.IGNORECASE)


class KeyAccess(Access):
    """Who sends a key of the file may do what the key allows, as often as it allows.

    Args:
        path: the file of keys, see :class:`~marquee.gateway.access.keys.KeyStore`. A change counts at once; where there
            is no file, nobody may come in.

    Raises:
        StartError: the file is damaged, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._keys = WatchedKeys(path)
        self._rates = Rates()

    def caller(self, authorization: str | None, scope: Scope | None) -> Caller:
        """See :meth:`Access.caller`."""
        if scope is None:
            return NOBODY
        if authorization is None or not authorization.strip():
            _refuse("a key is needed: send the header Authorization: Bearer KEY")
        sent = _BEARER.fullmatch(authorization)
        if sent is None:
            _refuse("the header Authorization has another form than: Bearer KEY")
        key = _valid(self._keys.find(sent[1]))
        if scope not in key.scopes:
            allowed = ", ".join(key.scopes)
            raise GatewayError(FORBIDDEN, f"the key {key.id} does not allow {scope}; it allows {allowed}")
        return Caller(name=key.name, key_id=key.id, scopes=frozenset(key.scopes), rate=key.rate)

    async def admit(self, caller: Caller) -> None:
        """See :meth:`Access.admit`.

        The key must be valid still: a call that sends many requests, over gRPC, may have begun before it was revoked.
        """
        if caller.key_id is not None:
            _valid(self._keys.get(caller.key_id))
        if caller.rate is None:
            return
        wait = self._rates.admit(_budget(caller), parse_rate(caller.rate))
        if wait is not None:
            message = f"{caller.name} may send {caller.rate} items; send again in {wait:.3g} s"
            raise GatewayError(RATE_LIMITED, message, retry_after=wait)

    async def charge(self, caller: Caller, reply: Reply) -> None:
        """See :meth:`Access.charge`."""
        if caller.rate is not None and (more := count_items(reply) - 1):
            self._rates.charge(_budget(caller), parse_rate(caller.rate), more)


class OpenAccess(Access):
    """Everybody may do everything: a gateway without keys, for tests on a machine of one's own."""

    def caller(self, authorization: str | None, scope: Scope | None) -> Caller:
        """Everybody."""
        return ANYBODY

    async def admit(self, caller: Caller) -> None:
        """Nothing is counted."""

    async def charge(self, caller: Caller, reply: Reply) -> None:
        """Nothing is counted."""


def first_key_hint(path: Path) -> str | None:
    """What to tell an operator whose file has no key that is valid; None where it has one.

    Args:
        path: the file of keys.

    Raises:
        OperationError: the file is damaged, or cannot be read.
    """
    if any(not key.is_expired() for key in KeyStore(path).entries()):
        return None
    is_default = Path(path).absolute() == (DEFAULT_STATE / KEYS_FILE).absolute()
    option = () if is_default else ("--file", path)
    command = hints.command("keys", "add", "NAME", "--scope", "predict", *option)
    return f"{path} has no valid key, so only probes are answered; make one, at any time: {command}"


def _budget(caller: Caller) -> tuple[str, str | None]:
    """What a rate is counted for: the keys of one client share it where they have the same."""
    return caller.name, caller.rate


def _valid(key: Key | None) -> Key:
    if key is None:
        _refuse("the key is not known, or was revoked")
    if key.is_expired():
        _refuse(f"the key {key.id} has expired")
    return key


def _refuse(message: str) -> NoReturn:
    raise GatewayError(UNAUTHENTICATED, message)
