"""marquee keys, as an operator types it."""

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from marquee.gateway.access.check import KeyAccess
from marquee.gateway.errors import GatewayError


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_key_is_made_used_listed_and_revoked(script, state):
    shown = script("keys", "add", "shop", "--scope", "predict", "explain", "--rate", "100/second", "--state", state)
    key = shown.stdout.strip()
    assert re.fullmatch(r"marquee_[0-9a-f]{8}_[0-9a-f]{64}", key), "nothing but the key, so that a shell can keep it"
    identifier, secret = key.split("_")[1:]
    assert secret not in shown.stderr
    assert f"key {identifier} of shop" in shown.stderr

    access = KeyAccess(state / "keys.json")
    caller = access.caller(f"Bearer {key}", "explain")
    assert (caller.name, caller.key_id, caller.rate) == ("shop", identifier, "100/second")

    listed = script("keys", "list", "--state", state)
    assert listed.stdout == f"{identifier} shop: predict, explain; 100/second\n"
    document = json.loads(script("keys", "list", "--state", state, "--json").stdout)
    (entry,) = document["keys"]
    created = entry.pop("created")
    assert created.endswith("+00:00")
    assert entry == {
        "id": identifier,
        "name": "shop",
        "scopes": ["predict", "explain"],
        "rate": "100/second",
        "expires": None,
        "expired": False,
    }

    assert script("keys", "revoke", identifier, "--state", state).stdout == f"revoked {identifier} of shop\n"
    with pytest.raises(GatewayError):
        access.caller(f"Bearer {key}", "predict")
    assert script("keys", "list", "--state", state).stdout == ""
    assert not any(secret.encode() in path.read_bytes() for path in state.iterdir())


def test_json_has_the_key_and_its_id(script, state):
    shown = script("keys", "add", "shop", "--state", state, "--days", 30, "--json")
    document = json.loads(shown.stdout)
    assert document["key"].startswith(f"marquee_{document['id']}_")
    assert (document["name"], shown.stderr) == ("shop", "")
    assert ", expires 20" in script("keys", "list", "--state", state).stdout
    revoked = json.loads(script("keys", "revoke", document["id"], "--state", state, "--json").stdout)
    assert revoked == {"id": document["id"], "name": "shop"}


@pytest.mark.slow
def test_twenty_at_once_lose_nothing(script, state):
    def add(number: int) -> str:
        return script("keys", "add", f"client{number}", "--state", state).stdout.strip()

    with ThreadPoolExecutor(20) as threads:
        made = list(threads.map(add, range(20)))
    access = KeyAccess(state / "keys.json")
    assert [access.caller(f"Bearer {key}", "predict").name for key in made] == [f"client{i}" for i in range(20)]
    assert len(json.loads((state / "keys.json").read_text())["keys"]) == 20


def test_a_file_of_ones_own(script, tmp_path):
    file = tmp_path / "secret" / "clients.json"
    script("keys", "add", "shop", "--file", file)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert "shop: predict" in script("keys", "list", "--file", file).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "a b"), 2, "error: name: expected"),
        (
            ("add", "shop", "--rate", "fast"),
            2,
            "error: rate: expected items and a time, such as 100/second, got 'fast'",
        ),
        (("add", "shop", "--days", "0"), 2, "error: days: expected a number above 0"),
        (("add", "shop", "--scope"), 2, "error: scopes: expected some of predict, explain, manage"),
        (("add", "shop", "--scope", "all"), 2, "predict"),
        (("add",), 2, "NAME"),
        (("revoke", "01234567"), 1, "there is no such file"),
        (("remove",), 2, "no such command; did you mean revoke?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line_and_changes_nothing(arguments, code, said, script, state):
    options = ("--state", state) if arguments != ("remove",) else ()
    shown = script("keys", *arguments, *options, check=False)
    assert (shown.returncode, shown.stdout) == (code, "")
    assert said in shown.stderr
    assert not state.exists()


def test_a_damaged_file_is_one_line(script, state):
    state.mkdir()
    (state / "keys.json").write_text('{"version": 1, "keys": [')
    for command in (("list",), ("add", "shop"), ("revoke", "01234567")):
        shown = script("keys", *command, "--state", state, check=False)
        assert (shown.returncode, shown.stdout) == (1, "")
        assert shown.stderr.startswith(f"error: {state}/keys.json: the file of keys is damaged: ")
        assert len(shown.stderr.splitlines()) == 1
    assert (state / "keys.json").read_text() == '{"version": 1, "keys": ['


def test_an_unknown_id_is_said(script, state):
    script("keys", "add", "shop", "--state", state)
    shown = script("keys", "revoke", "nothing", "--state", state, check=False)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "no key has the ID 'nothing'" in shown.stderr
