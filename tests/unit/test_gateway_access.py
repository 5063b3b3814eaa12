"""Who may come in: keys and their file, what a running gateway sees of it, scopes, and rates in items."""

import asyncio
import hmac
import inspect
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marquee.gateway.access.caller import ANYBODY, NOBODY
from marquee.gateway.access.check import KeyAccess, OpenAccess, first_key_hint
from marquee.gateway.access.failures import Failures
from marquee.gateway.access.items import count_items
from marquee.gateway.access.keys import KeyStore, hide_keys, id_of
from marquee.gateway.access.rates import Rate, Rates, parse_rate
from marquee.gateway.backend import Reply
from marquee.gateway.errors import FORBIDDEN, RATE_LIMITED, UNAUTHENTICATED, GatewayError, StartError
from marquee.serving.errors import OperationError

ONE = Reply(status=200, body=b'{"label": "3"}')


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "state" / "keys.json")


def refused(access: KeyAccess, authorization: str | None, scope="predict") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        access.caller(authorization, scope)
    return caught.value


def admitted(access: KeyAccess, key: str) -> bool:
    try:
        access.caller(f"Bearer {key}", "predict")
    except GatewayError as error:
        assert error.kind is UNAUTHENTICATED
        return False
    return True


def secret_of(key: str) -> bytes:
    return key.rpartition("_")[2].encode()


# The file


def test_a_key_has_256_random_bits_and_only_its_digest_is_kept(keys):
    made = {keys.add("shop") for _ in range(20)}
    assert len({secret_of(key) for key in made}) == len(made)
    assert all(len(bytes.fromhex(secret_of(key).decode())) == 32 for key in made)
    assert {entry.id for entry in keys.entries()} == {id_of(key) for key in made}
    for path in keys.path.parent.iterdir():
        assert not any(secret_of(key) in path.read_bytes() for key in made)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_file_is_private_whatever_the_umask(umask, keys):
    keys.path.parent.mkdir()
    before = os.umask(umask)
    try:
        keys.add("shop")
        revoked = keys.add("shop")
        keys.revoke(id_of(revoked))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.path.parent.iterdir()}
    assert modes == {"keys.json": 0o600, ".keys.json.lock": 0o600}


def test_processes_and_threads_that_add_keys_at_once_lose_none(keys):
    code = (
        "import sys; from pathlib import Path; from marquee.gateway.access.keys import KeyStore\n"
        "sys.stdin.read(); print(KeyStore(Path(sys.argv[1])).add(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(keys.path)]
    children = [
        subprocess.Popen([*command, f"process{i}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    with ThreadPoolExecutor(20) as threads:
        added = [threads.submit(keys.add, f"thread{i}") for i in range(20)]
        made = [child.communicate("")[0].strip() for child in children] + [future.result() for future in added]
    entries = keys.entries()
    assert {entry.id for entry in entries} == {id_of(key) for key in made}
    assert len(entries) == 28
    access = KeyAccess(keys.path)
    assert all(admitted(access, key) for key in made)


def test_the_lock_of_a_process_that_was_killed_is_free(keys):
    keys.add("shop")
    code = (
        "import sys, time; from pathlib import Path; from marquee.gateway.access.private_file import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(keys.path)], stdout=subprocess.PIPE)
    child.stdout.readline()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(keys.add, "shop")
        time.sleep(0.2)
        assert not waiting.done()
        child.send_signal(signal.SIGKILL)
        assert id_of(waiting.result(60)) is not None
    child.wait()


def test_a_link_to_the_file_stays_a_link(keys, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    keys.path.parent.mkdir()
    keys.path.symlink_to(tmp_path / "elsewhere" / "own.json")
    key = keys.add("shop")
    assert keys.path.is_symlink()
    assert admitted(KeyAccess(tmp_path / "elsewhere" / "own.json"), key)


ENTRY = {
    "id": "0123abcd",
    "name": "shop",
    "sha256": "0" * 64,
    "scopes": ["predict"],
    "created": "2026-01-01T00:00:00+00:00",
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ("[]", "expected {"),
        ('{"keys": []}', "version: expected 1, got None"),
        ('{"version": 2, "keys": []}', "version: expected 1, got 2"),
        ('{"version": 1, "keys": [1]}', "keys[0]: expected an object"),
        ({"scopes": ["predict", "all"]}, "keys[0].scopes[1]: expected one of"),
        ({"scopes": []}, "keys[0].scopes: expected some of"),
        ({"sha256": "secret"}, "keys[0].sha256: expected 64"),
        ({"id": "x"}, "keys[0].id: expected 8"),
        ({"name": "a\nb"}, "keys[0].name: expected up to 64"),
        ({"rate": "fast"}, "keys[0].rate: expected items and a time"),
        ({"expires": "soon"}, "keys[0]"),
        ({"expires": "2026-01-01"}, "keys[0].expires: expected a time with its zone"),
        ({"admin": True}, "keys[0].admin: unknown field"),
        ([ENTRY, ENTRY], "two have the same id"),
    ],
    ids=repr,
)
def test_a_damaged_file_is_one_clear_line_and_is_not_overwritten(content, said, keys):
    if not isinstance(content, str):
        entries = content if isinstance(content, list) else [{**ENTRY, **content}]
        content = json.dumps({"version": 1, "keys": entries})
    keys.path.parent.mkdir()
    keys.path.write_text(content)
    for action in (keys.entries, lambda: keys.add("shop"), lambda: keys.revoke("0123abcd")):
        with pytest.raises(OperationError) as caught:
            action()
        assert said in str(caught.value)
        assert str(caught.value).startswith(f"{keys.path}: ")
        assert "\n" not in str(caught.value)
    assert keys.path.read_text() == content
    with pytest.raises(StartError, match="damaged"):
        KeyAccess(keys.path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": ""}, "name: "),
        ({"name": "a b"}, "name: "),
        ({"name": "x" * 65}, "name: "),
        ({"scopes": ()}, "scopes: "),
        ({"rate": "0/second"}, "rate: "),
        ({"rate": "1/second; 5/hour"}, "rate: "),
        ({"rate": "100"}, "rate: "),
        ({"rate": f"{10**12}/second"}, "rate: "),
        ({"days": 0}, "days: "),
        ({"days": float("nan")}, "days: "),
        ({"days": 1e9}, "days: "),
    ],
    ids=repr,
)
def test_what_a_key_cannot_have_is_refused_and_nothing_is_written(arguments, said, keys):
    with pytest.raises(ValueError, match=f"^{said}"):
        keys.add(**{"name": "shop", **arguments})
    assert not keys.path.exists()


# What a running gateway sees of it


def test_keys_are_made_and_revoked_while_the_gateway_runs(keys):
    access = KeyAccess(keys.path)  # before there is a file
    old = keys.add("shop")
    assert admitted(access, old)
    new = keys.add("shop")
    assert admitted(access, old)
    assert admitted(access, new), "two keys are valid during a change"
    keys.revoke(id_of(old))
    assert not admitted(access, old)
    assert admitted(access, new)
    assert admitted(KeyAccess(keys.path), new), "after a restart"
    keys.path.unlink()
    assert not admitted(access, new)


def test_a_file_that_cannot_be_read_is_logged_once_and_takes_no_key_away(keys, caplog):
    key = keys.add("shop")
    access = KeyAccess(keys.path)
    good = keys.path.read_bytes()
    for break_it in (lambda: keys.path.write_bytes(good[:40]), lambda: (keys.path.unlink(), keys.path.mkdir())):
        caplog.clear()
        break_it()
        assert all(admitted(access, key) for _ in range(3))
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert str(keys.path) in errors[0].getMessage()
    keys.path.rmdir()
    assert not admitted(access, key)
    keys.path.write_bytes(good)
    assert admitted(access, key)
    assert secret_of(key).decode() not in caplog.text


def test_a_file_without_permission_is_logged_and_counts_again_with_it(caplog):
    with tempfile.TemporaryDirectory() as folder, unprivileged(folder):
        keys = KeyStore(Path(folder) / "keys.json")
        key = keys.add("shop")
        access = KeyAccess(keys.path)
        keys.path.chmod(0)
        assert admitted(access, key)
        assert "cannot be read" in caplog.text
        caplog.clear()
        assert admitted(access, key)
        with pytest.raises(StartError, match="cannot be read"):
            KeyAccess(keys.path)
        keys.path.chmod(0o600)
        assert admitted(access, key)
        assert "has changed; keys in it: 1" in caplog.text


@contextmanager
def unprivileged(folder: str) -> Iterator[None]:
    """As a user to whom permissions matter, if this one is root; the folder is that user's."""
    nobody, before = 65_534, os.geteuid()
    if before:
        yield
        return
    os.chown(folder, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for others")
def test_what_root_writes_belongs_to_whom_the_folder_belongs():
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65_534, 65_534)
        keys = KeyStore(Path(folder) / "keys.json")
        keys.add("shop")
        keys.add("shop")
        assert {path.stat().st_uid for path in Path(folder).iterdir()} == {65_534}


def test_an_unchanged_file_is_not_read_again(keys, monkeypatch):
    key = keys.add("shop")
    access = KeyAccess(keys.path)
    opened = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path))
    assert all(admitted(access, key) for _ in range(10))
    assert opened == []


# Who a caller is


def test_a_header_is_a_bearer_and_a_key(keys):
    key = keys.add("shop", ("predict", "explain"), "5/second")
    access = KeyAccess(keys.path)
    for header in (f"Bearer {key}", f"bearer {key}", f"BEARER  {key}", f" Bearer\t{key} "):
        caller = access.caller(header, "explain")
        assert (caller.name, caller.key_id, caller.rate) == ("shop", id_of(key), "5/second")
        assert caller.scopes == {"predict", "explain"}
    wrong = (
        None, "", "  ", "Bearer", "Bearer ", key, f"Basic {key}", f"Bearer{key}", f"Bearer {key} x", f"Bearer {key},",
        f"Bearer {key[:-1]}", f"Bearer {key}0", f"Bearer {key.upper()}", f"Bearer {key[:-1]}\N{BULLET}",
        "Bearer \udcff", f"Bearer {key}\x00", "Bearer " + "x" * 100_000, f"Bearer {id_of(key)}",
    )  # fmt: skip
    for header in wrong:
        error = refused(access, header)
        assert error.kind is UNAUTHENTICATED
        assert secret_of(key).decode() not in error.message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(), begin=st.sampled_from(("", "Bearer ", "Bearer marquee_", "Bearer marquee_00000000_")))
def test_no_header_breaks_the_check(text, begin, keys):
    assert refused(KeyAccess(keys.path), begin + text).kind is UNAUTHENTICATED


def test_unknown_and_revoked_keys_are_told_alike(keys):
    revoked, kept = keys.add("shop"), keys.add("shop")
    keys.revoke(id_of(revoked))
    other = kept[:-1] + ("0" if kept[-1] != "0" else "1")
    access = KeyAccess(keys.path)
    never = "marquee_00000000_" + "0" * 64
    assert len({refused(access, f"Bearer {key}").message for key in (revoked, other, never, "abc")}) == 1


def test_digests_are_compared_in_constant_time(keys, monkeypatch):
    key = keys.add("shop")
    access = KeyAccess(keys.path)
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert (admitted(access, key), admitted(access, wrong)) == (True, False)
    stored = keys.entries()[0].sha256
    assert [stored in pair for pair in compared] == [True, True]
    assert [a == b for a, b in compared] == [True, False]


def test_a_scope_is_needed_and_named(keys):
    access = KeyAccess(keys.path)
    header = f"Bearer {keys.add('shop', ('predict',))}"
    assert access.caller(header, "predict").name == "shop"
    for scope in ("explain", "manage"):
        error = refused(access, header, scope)
        assert error.kind is FORBIDDEN
        assert f"does not allow {scope}; it allows predict" in error.message
    assert access.caller(None, None) is NOBODY
    assert access.caller("Bearer wrong", None) is NOBODY, "a probe needs no key, and no key spoils it"
    manager = f"Bearer {keys.add('operator', ('manage',))}"
    assert access.caller(manager, "manage").name == "operator"
    assert refused(access, manager, "predict").kind is FORBIDDEN


def test_a_key_expires(keys):
    access = KeyAccess(keys.path)
    lasting, past = keys.add("shop", days=1), keys.add("shop", days=1e-12)
    assert access.caller(f"Bearer {lasting}", "predict").name == "shop"
    error = refused(access, f"Bearer {past}")
    assert (error.kind, error.message) == (UNAUTHENTICATED, f"the key {id_of(past)} has expired")
    guessed = past[:-1] + ("0" if past[-1] != "0" else "1")
    assert "expired" not in refused(access, f"Bearer {guessed}").message, "only its owner is told so"


def test_without_keys_everybody_may_do_everything():
    access = OpenAccess()
    assert [access.caller(None, scope) for scope in ("predict", "manage", None)] == [ANYBODY] * 3
    asyncio.run(access.admit(ANYBODY))
    asyncio.run(access.charge(ANYBODY, ONE))


def test_an_operator_is_told_how_to_make_the_first_key(keys):
    assert f"keys add NAME --scope predict --file {keys.path}" in first_key_hint(keys.path)
    for default in (Path(".torchserve/keys.json"), Path(".torchserve/keys.json").absolute()):
        assert "--file" not in first_key_hint(default)
    keys.add("shop", days=1e-12)
    assert first_key_hint(keys.path) is not None
    keys.add("shop")
    assert first_key_hint(keys.path) is None


# Rates


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_read_as_people_write_them():
    written = ("100/second", "100 per second", "5/2 hours", "1/day", "7/Minute")
    seconds = [(100, 1), (100, 1), (5, 7_200), (1, 86_400), (7, 60)]
    assert [parse_rate(text) for text in written] == [Rate(*pair) for pair in seconds]


def test_a_client_may_send_a_periods_items_and_then_as_many_as_its_rate():
    clock = Clock()
    rates, rate = Rates(clock), Rate(100, 1)
    assert [rates.admit("a", rate) for _ in range(100)] == [None] * 100
    assert rates.admit("a", rate) == pytest.approx(0.01, abs=1e-6)
    assert rates.admit("b", rate) is None, "others are not held up"
    clock.now += 0.5
    assert [rates.admit("a", rate) is None for _ in range(60)] == [True] * 50 + [False] * 10
    clock.now += 1e6
    assert [rates.admit("a", rate) is None for _ in range(101)] == [True] * 100 + [False]


def test_a_request_larger_than_the_rate_is_paid_off_item_by_item():
    clock = Clock()
    rates, rate = Rates(clock), Rate(100, 1)
    assert rates.admit("a", rate) is None
    rates.charge("a", rate, 999)
    wait = rates.admit("a", rate)
    assert wait == pytest.approx(9.01)
    clock.now += wait - 0.005
    assert rates.admit("a", rate) is not None
    clock.now += 0.006
    assert rates.admit("a", rate) is None


@pytest.mark.parametrize("rate", [Rate(3, 1), Rate(7, 86_400), Rate(1_000_000, 1), Rate(1, 2_592_000)], ids=str)
def test_no_item_of_a_period_is_lost_to_rounding(rate):
    clock = Clock()
    clock.now = 1.7e9 + 0.1
    rates = Rates(clock)
    rates.charge("a", rate, rate.items - 1)
    assert rates.admit("a", rate) is None
    assert rates.admit("a", rate) is not None


def test_clients_that_were_quiet_take_no_memory():
    clock = Clock()
    rates = Rates(clock)
    for i in range(20_000):
        clock.now += 1
        rates.admit(i, Rate(10, 1))
    assert len(rates._paid_off) <= 4_096


def batch(count: int) -> Reply:
    return Reply(status=200, body=json.dumps({"predictions": [{"label": "3"}] * count, "model": {}}).encode())


def test_a_key_is_held_to_its_rate_in_items(keys):
    access = KeyAccess(keys.path)
    caller = access.caller(f"Bearer {keys.add('shop', rate='10/hour')}", "predict")

    async def ask(reply: Reply) -> None:
        await access.admit(caller)
        await access.charge(caller, reply)

    asyncio.run(ask(batch(6)))
    for _ in range(3):
        asyncio.run(ask(ONE))
    asyncio.run(ask(batch(5)))  # one item was left, four are owed
    with pytest.raises(GatewayError, match="shop may send 10/hour items") as caught:
        asyncio.run(ask(ONE))
    assert caught.value.kind is RATE_LIMITED
    assert caught.value.retry_after == pytest.approx(5 * 360, rel=0.01)
    free = access.caller(f"Bearer {keys.add('free')}", "predict")
    caller = free
    for _ in range(50):
        asyncio.run(ask(batch(100)))


def test_a_call_that_began_before_its_key_was_revoked_is_held_to_it(keys):
    """Over gRPC, one call may send requests for hours."""
    access = KeyAccess(keys.path)
    key, lasting = keys.add("shop"), keys.add("shop")
    first, second = (access.caller(f"Bearer {sent}", "predict") for sent in (key, lasting))
    asyncio.run(access.admit(first))
    keys.revoke(id_of(key))
    with pytest.raises(GatewayError) as caught:
        asyncio.run(access.admit(first))
    assert caught.value.kind is UNAUTHENTICATED
    asyncio.run(access.admit(second))


def test_the_keys_of_a_client_share_its_rate(keys):
    access = KeyAccess(keys.path)
    old, new, faster, other = (
        access.caller(f"Bearer {keys.add(name, rate=rate)}", "predict")
        for name, rate in (("shop", "2/hour"), ("shop", "2/hour"), ("shop", "3/hour"), ("other", "2/hour"))
    )
    asyncio.run(access.admit(old))
    asyncio.run(access.admit(new))
    for caller in (old, new):
        with pytest.raises(GatewayError):
            asyncio.run(access.admit(caller))
    for caller in (faster, other):
        asyncio.run(access.admit(caller))


def test_a_clock_that_is_set_back_locks_nobody_out():
    """Rates go by a clock that cannot be set; the library's windows go by the one that can."""
    assert inspect.signature(Rates).parameters["clock"].default is time.monotonic


def oip(rows: int, raw: bytes = b"") -> Reply:
    shape = [{"name": "label", "shape": [rows], "datatype": "BYTES"}, {"name": "p", "shape": [rows, 3]}]
    document = json.dumps({"model_name": "digits", "outputs": shape}).encode()
    headers = {"inference-header-content-length": str(len(document))} if raw else {}
    return Reply(status=200, body=document + raw, headers=headers)


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        (ONE, 1),
        (batch(7), 7),
        (batch(0), 1),
        (oip(5), 5),
        (oip(5, np.zeros(15).tobytes()), 5),
        (Reply(status=200, body=b'{"outputs": []}'), 1),
        (Reply(status=200, body=b'{"outputs": [{"shape": ["x"]}], "predictions": 3}'), 1),
        (Reply(status=200, body=b'{"outputs": [{"shape": [-4]}]}'), 1),
        (Reply(status=200, body=b"[1, 2]"), 1),
        (Reply(status=200, body=b"\xff\xfe"), 1),
        (Reply(status=200, body=b"{}", headers={"inference-header-content-length": "-1"}), 1),
        (Reply(status=503, body=b""), 1),
    ],
)
def test_items_of_an_answer(reply, count):
    assert count_items(reply) == count


# Logs


def test_no_key_in_a_text_that_is_logged(keys):
    key = keys.add("shop")
    assert hide_keys(f"/a/{key}/b?{key}") == f"/a/marquee_{id_of(key)}_***/b?marquee_{id_of(key)}_***"


def test_an_address_is_named_once_in_ten_seconds(caplog):
    clock = Clock()
    failures = Failures(clock)
    for _ in range(40):
        failures.note("192.0.2.1", "401")
        clock.now += 0.5
    assert len(caplog.messages) == 2
    failures.note("192.0.2.2", "401")
    assert caplog.messages[-1].startswith("refused 192.0.2.2")


def test_who_tries_keys_out_does_not_fill_the_log(caplog):
    clock = Clock()
    failures = Failures(clock)
    for _ in range(1_000):
        failures.note("192.0.2.1", "401")
    for i in range(1_000):
        failures.note(f"198.51.100.{i}", "401")
    assert len(caplog.records) <= 11
    assert caplog.messages[0] == "refused 192.0.2.1: 401"
    clock.now += 60
    failures.note("192.0.2.1", "401")
    left_out = [int(message.split("; ")[1].split()[0]) for message in caplog.messages if ";" in message]
    assert caplog.messages[-1].startswith("refused 192.0.2.1: 401; ")
    assert len(caplog.messages) + sum(left_out) == 2_001, "all are told of"
