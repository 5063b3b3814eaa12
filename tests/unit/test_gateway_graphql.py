"""GraphQL: what a client of PyPI gets, and what a document may not ask for."""

import asyncio
import base64
import csv
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from gql import Client, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportQueryError, TransportServerError
from graphql import GraphQLError, get_introspection_query, parse

from marquee.gateway.access.check import KeyAccess
from marquee.gateway.access.keys import KeyStore
from marquee.gateway.app import operations
from marquee.gateway.config import GatewayConfig
from marquee.gateway.doors import graphql
from marquee.gateway.doors.graphql_limits import (
    MAX_ALIASES,
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_REPEATED,
    MAX_TOKENS,
    check_fields,
)
from marquee.gateway.doors.graphql_schema import MAX_ITEMS
from marquee.gateway.errors import StartError
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.golden import read_golden
from marquee.handlers.core.handler import Handler
from marquee.serving.archive import open_archive
from tests import table_forms
from tests.both_doors import BothDoors

PREDICT = """
query Predict($model: String!, $items: [Item!]!, $version: String) {
  predict(model: $model, items: $items, version: $version) {
    model { name version bundle variant }
    answers {
      raw
      ... on Classification { label probability ranking { label index probability } distance abstained }
      ... on Regression { value interval { low high level } unfamiliar }
      ... on ItemError { code message }
    }
  }
}
"""
QUICK = 20.0
"""Seconds within which a document must be refused that would take for ever; it takes milliseconds."""


@pytest.fixture(scope="module")
def rows(run) -> list[dict[str, Any]]:
    """All test images with evaluation's answers."""
    with open(run / "predictions.csv", newline="") as stream:
        return [{**row, "data": Path(row["path"]).read_bytes()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def tables(once, script) -> Path:
    """As tests/integration/test_tables.py has it."""
    return once("tables", lambda folder: table_forms.make_models(folder, script))


@pytest.fixture(scope="module")
def doors(store, tables) -> Iterator[BothDoors]:
    archives = {"digits": store / "digits.mar", "houses": tables / "store" / "houses.mar"}
    with BothDoors(archives, config=GatewayConfig(graphql=True)) as opened:
        yield opened


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(doors) -> Iterator[Ask]:
    """Runs an operation by the client, which knows the schema from the server."""
    loop = asyncio.new_event_loop()

    async def execute(text: str, variables: dict[str, Any]) -> dict[str, Any]:
        transport = AIOHTTPTransport(url=f"{doors.url}/graphql")
        async with Client(transport=transport, fetch_schema_from_transport=True) as session:
            request = gql(text)
            request.variable_values = variables
            return await session.execute(request)

    yield lambda text, **variables: loop.run_until_complete(execute(text, variables))
    loop.close()


def post(doors: BothDoors, query: str, headers: dict[str, str] | None = None, **variables: Any) -> requests.Response:
    document = {"query": query, "variables": variables}
    return requests.post(f"{doors.url}/graphql", json=document, headers=headers, timeout=60)


def messages(response: requests.Response) -> list[str]:
    return [error["message"] for error in response.json()["errors"]]


def image(data: bytes) -> dict[str, str]:
    return {"image": base64.b64encode(data).decode()}


# Answers


def test_all_test_images_get_evaluations_answers(ask, rows):
    answers = []
    for start in range(0, len(rows), 64):
        items = [image(row["data"]) for row in rows[start : start + 64]]
        answers += ask(PREDICT, model="digits", items=items)["predict"]["answers"]
    assert len(answers) == len(rows) == 355
    for answer, row in zip(answers, rows, strict=True):
        assert answer["label"] == answer["raw"]["label"] == answer["ranking"][0]["label"] == row["predicted"]
        assert answer["probability"] == pytest.approx(float(row[row["predicted"]]), abs=1e-4)
        assert answer["distance"] == answer["raw"]["distance"]


def test_rows_of_a_table_get_evaluations_answers(ask, tables):
    """The golden samples are rows as clients send them."""
    with open_archive(tables / "store" / "houses.mar") as folder:
        bundle = Bundle.read(folder)
        samples = read_golden(bundle, bundle.spec.variants[0])
    items = [{"row": json.loads(sample.data)} for sample in samples]
    answers = ask(PREDICT, model="houses", items=items)["predict"]["answers"]
    for answer, sample in zip(answers, samples, strict=True):
        assert answer["value"] == pytest.approx(sample.expected["value"], rel=1e-6)
        assert answer["interval"]["level"] == sample.expected["interval"]["level"]
        assert (answer["value"], answer["interval"]) == (answer["raw"]["value"], answer["raw"]["interval"])


def test_a_bad_item_is_an_error_beside_good_answers(ask, rows):
    items = [image(rows[0]["data"]), image(b"no image"), {"row": {"a": 1}}, image(rows[1]["data"]), {"image": "§"}]
    answers = ask(PREDICT, model="digits", items=items)["predict"]["answers"]
    assert [answer.get("label") for answer in answers] == [
        *(rows[0]["predicted"], None, None),
        *(rows[1]["predicted"], None),
    ]
    assert answers[1]["code"] == "not_an_image"
    assert answers[2]["code"] == answers[4]["code"] == "bad_request"
    assert answers[1]["raw"] == {"error": {"code": answers[1]["code"], "message": answers[1]["message"]}}


def test_models_and_versions(ask, store):
    found = ask(
        """{ models { name version default ready pending workers { id state } task labels description
               inputs { name datatype shape } outputs { name datatype shape } } }"""
    )["models"]
    assert [(one["name"], one["version"], one["default"], one["ready"]) for one in found] == [
        ("digits", "1.0", True, True),
        ("houses", "1.0", True, True),
    ]
    digits, houses = found
    assert digits["labels"] == list("0123456789")
    assert houses["labels"] is None
    assert digits["task"] == digits["description"]["task"] == "image-classification"
    assert {"name": "image", "datatype": "BYTES", "shape": [-1]} in digits["inputs"]
    assert {"name": "label", "datatype": "BYTES", "shape": [-1]} in digits["outputs"]
    assert {tensor["name"] for tensor in houses["inputs"]} == set(table_forms.FEATURES)
    one = ask('{ model(name: "digits", version: "1.0") { name workers { state } } }')["model"]
    assert one == {"name": "digits", "workers": [{"state": "READY"}]}


def test_several_predictions_in_one_operation(ask, rows):
    """By aliases; what fails leaves the others alone."""
    text = """query($a: [Item!]!, $b: [Item!]!) {
      first: predict(model: "digits", items: $a) { answers { raw } }
      second: predict(model: "houses", items: $b) { answers { ... on ItemError { code } } } }"""
    answers = ask(text, a=image(rows[0]["data"]), b=[image(rows[0]["data"])])
    assert answers["first"]["answers"][0]["raw"]["label"] == rows[0]["predicted"]
    assert answers["second"]["answers"][0]["code"] == "unknown_column"


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({"model": "nobody"}, "not_found", "unknown model 'nobody'"),
        ({"model": "digits", "version": "9"}, "not_found", "no version '9'"),
        ({"model": "digits", "items": []}, "bad_request", f"1 to {MAX_ITEMS}"),
        ({"model": "", "items": []}, "bad_request", "expected a name"),
        ({"model": "digits", "items": [{"image": "QUJD"}] * 65}, "too_many_instances", "65 items; at most 64"),
    ],
)
def test_a_prediction_that_is_refused_as_a_whole(ask, rows, variables, code, words):
    with pytest.raises(TransportQueryError) as caught:
        ask(PREDICT, **{"items": [image(rows[0]["data"])], **variables})
    (error,) = caught.value.errors
    assert error["extensions"]["code"] == code
    assert words in error["message"]
    assert error["path"] == ["predict"]
    assert caught.value.data == {"predict": None}


# Who may come in


def test_it_is_off_by_default(store):
    with BothDoors({"digits": store / "digits.mar"}) as doors:
        assert post(doors, "{ models { name } }").status_code == 404


def test_keys_scopes_and_rates(store, tmp_path, rows):
    keys = KeyStore(tmp_path / "keys.json")
    shop, chart = keys.add("shop", ("predict",), "3/hour"), keys.add("chart", ("manage",))
    config = GatewayConfig(graphql=True, keys=keys.path)
    with BothDoors({"digits": store / "digits.mar"}, config=config, access=KeyAccess(keys.path)) as doors:
        refused = post(doors, "{ models { name } }")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["errors"][0]["extensions"]["code"] == refused.json()["code"] == "unauthenticated"
        assert post(doors, "{ models { name } }", {"Authorization": f"Bearer {chart}"}).status_code == 403
        assert post(doors, get_introspection_query()).status_code == 401
        allowed = {"Authorization": f"Bearer {shop}"}
        assert post(doors, "{ models { name } }", allowed).json() == {"data": {"models": [{"name": "digits"}]}}

        # Items are counted, whoever aliases what: two of three are left, then none.
        two = [image(rows[0]["data"]), image(b"no image")]
        assert "errors" not in post(doors, PREDICT, allowed, model="digits", items=two).json()
        text = """query($i: [Item!]!) { a: predict(model: "digits", items: $i) { answers { raw } }
                                        b: predict(model: "digits", items: $i) { answers { raw } } }"""
        limited = post(doors, text, allowed, i=two[:1])
        (error,) = limited.json()["errors"]
        assert limited.status_code == 200
        assert sum(part is not None for part in limited.json()["data"].values()) == 1
        assert error["extensions"]["code"] == "rate_limited"
        assert error["extensions"]["status"] == 429
        assert 0 < error["extensions"]["retry_after"] <= int(limited.headers["retry-after"])


def test_the_client_raises_what_the_gateway_says(store, tmp_path):
    keys = KeyStore(tmp_path / "keys.json")
    config = GatewayConfig(graphql=True, keys=keys.path)

    async def execute(url: str) -> None:
        async with Client(transport=AIOHTTPTransport(url=url)) as session:
            await session.execute(gql("{ models { name } }"))

    with (
        BothDoors({"digits": store / "digits.mar"}, config=config, access=KeyAccess(keys.path)) as doors,
        pytest.raises((TransportQueryError, TransportServerError), match="a key is needed"),
    ):
        asyncio.run(execute(f"{doors.url}/graphql"))


# What is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"query": NaN}', "NaN is not JSON"),
        (b'[{"query": "{ models { name } }"}]', "batches"),
        (b"7", "JSON object"),
        (b"{}", "query: expected a text"),
        (b'{"query": 7}', "query: expected a text"),
        (b'{"query": " "}', "query: expected a text"),
        (b'{"query": "{a}", "variables": []}', "variables: expected an object"),
        (b'{"query": "{a}", "operationName": 1}', "operationName: expected a text"),
    ],
)
def test_bodies_that_are_no_operation(doors, body, words):
    url, headers = f"{doors.url}/graphql", {"Content-Type": "application/json"}
    response = requests.post(url, body, headers=headers, timeout=60)
    assert response.status_code == 400
    assert any(words in message for message in messages(response))
    assert response.json()["code"] == "bad_request"


def test_only_post_of_json(doors):
    """What a form of another page could send is not taken, and neither is an operation in a URL."""
    url, query = f"{doors.url}/graphql", "{ models { name } }"
    assert requests.get(url, params={"query": query}, timeout=60).status_code == 405
    assert requests.get(url, headers={"Accept": "text/html"}, timeout=60).status_code == 405
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        body = json.dumps({"query": query}).encode()
        assert requests.post(url, body, headers={"Content-Type": kind}, timeout=60).status_code == 400
    stream = {"Accept": "multipart/mixed;subscriptionSpec=1.0, application/json"}
    assert post(doors, query, stream).json()["data"]["models"]


def spread(levels: int) -> str:
    """Fragments of which each spreads the next one twice: 2 ** levels fields."""
    pairs = [f"fragment f{level} on Query {{ ...f{level + 1} ...f{level + 1} }}" for level in range(levels)]
    return " ".join(["{ ...f0 }", *pairs, f"fragment f{levels} on Query {{ models {{ name }} }}"])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("mutation { models { name } }", "only queries"),
        ("subscription { models { name } }", "only queries"),
        ("query A { models { name } } query B { models { name } }", "several operations"),
        ("fragment a on Query { models { name } }", "no such operation"),
        ("{ " + " ".join(f"a{n}: models {{ name }}" for n in range(MAX_ALIASES + 1)) + " }", "aliases"),
        (
            "{ ...a } fragment a on Query { "
            + " ".join(f"a{n}: models {{ name }}" for n in range(MAX_ALIASES + 1))
            + " }",
            "aliases",
        ),
        ("{" + "models { name } " * (MAX_TOKENS // 4 + 1) + "}", "tokens"),
        ("{ models { " + "name " * (MAX_REPEATED + 1) + "} }", "selected more than"),
        ("{ " + ("models { " + "name " * 19 + "} ") * (MAX_FIELDS // 20 + 1) + "}", "more than"),
        (spread(10), f"more than {MAX_FIELDS} fields"),
        (spread(60), f"more than {MAX_FIELDS} fields"),
        ("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }", "contains itself"),
        ("{" * 300, "Syntax Error"),
        ('{ predict(model: "a", items: {row: ' + "[" * 400 + "]" * 400 + "}) { answers { raw } } }", "nested"),
        ("{ models { " + "a { " * MAX_DEPTH + "b" + " }" * MAX_DEPTH + " } }", "maximum"),
        ("{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }", "introspection depth"),
        ("# " + "x" * MAX_CHARACTERS, "characters"),
        ("{" + "a" * 5_000 + "}", "Cannot query field"),
        ("{ nothing }", "Cannot query field"),
        ("{ models @defer { name } }", "@defer"),
    ],
)
def test_documents_that_are_refused_at_once(doors, query, words):
    """Before anything is asked of a model, in no time, and in few words."""
    began = time.monotonic()
    response = post(doors, query, {"Accept": "application/graphql-response+json"})
    assert time.monotonic() - began < QUICK
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/graphql-response+json"
    assert "data" not in response.json()
    assert any(words in message for message in messages(response)), messages(response)
    assert len(response.content) < 20_000
    # Older clients look at the body.
    older = post(doors, query)
    assert (older.status_code, older.json()) == (200, response.json())
    assert older.headers["content-type"] == "application/json"


def test_variables_that_are_refused_at_once(doors):
    for items, words in (
        ([{"image": "QUJD"}] * (MAX_ITEMS + 1), f"at most {MAX_ITEMS}"),
        ([{"image": 7}] * MAX_ITEMS, "non string value: 7"),
        ([{"image": "QUJD", "row": 1}], "exactly one"),
        ([{}], "exactly one"),
        ([{"nobody": 1}], "nobody"),
        (None, "null"),
    ):
        began = time.monotonic()
        response = post(doors, PREDICT, model="digits", items=items)
        assert time.monotonic() - began < QUICK
        assert any(words in message for message in messages(response)), messages(response)
        assert "data" not in response.json()


def test_one_of_several_operations_is_chosen_by_its_name(doors):
    document = {"query": "query A { models { name } } query B { models { version } }", "operationName": "B"}
    chosen = requests.post(f"{doors.url}/graphql", json=document, timeout=60).json()
    assert set(chosen["data"]["models"][0]) == {"version"}
    document["operationName"] = "C"
    (error,) = requests.post(f"{doors.url}/graphql", json=document, timeout=60).json()["errors"]
    assert "operation" in error["message"]


def test_what_may_be_asked_fits_the_limits(doors):
    """The introspection of clients, and the largest documents that are taken."""
    known = get_introspection_query(
        specified_by_url=True, directive_is_repeatable=True, schema_description=True, input_value_deprecation=True
    )
    names = {one["name"] for one in post(doors, known).json()["data"]["__schema"]["types"]}
    assert {"Model", "Answer", "Classification", "Regression", "ItemError", "Item"} <= names
    assert post(doors, known).json()["data"]["__schema"]["mutationType"] is None
    assert "data" in post(doors, "{ " + ("models { " + "name " * 19 + "} ") * (MAX_FIELDS // 20) + "}").json()
    assert "data" in post(doors, spread(7)).json()


def test_operations_at_the_same_time_have_their_own_limits(doors, rows):
    """The limiters hold the state of one operation."""
    too_many = "{ " + " ".join(f"a{n}: models {{ name }}" for n in range(MAX_ALIASES + 1)) + " }"

    def one(number: int) -> Any:
        if number % 2:
            return messages(post(doors, too_many))
        (answer,) = post(doors, PREDICT, model="digits", items=image(rows[number]["data"])).json()["data"]["predict"][
            "answers"
        ]
        return answer["label"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(64)))
    assert found[::2] == [row["predicted"] for row in rows[:64:2]]
    assert all("aliases" in words for (words,) in found[1::2])


def test_fragments_are_counted_once_each():
    """The count itself takes no longer for deep documents, and is right for small ones."""
    began = time.monotonic()
    with pytest.raises(GraphQLError, match="more than"):
        check_fields(parse(spread(90)))
    assert time.monotonic() - began < QUICK
    check_fields(parse("{ a { ...f ...f } } fragment f on A { " + " ".join(f"b{n}" for n in range(199)) + " }"))
    with pytest.raises(GraphQLError, match="more than"):
        check_fields(parse("{ a { ...f ...f } } fragment f on A { " + " ".join(f"b{n}" for n in range(200)) + " }"))
    check_fields(parse("{ a { ...unknown ... { b } ... on B { c } } }"))


def test_an_error_that_nobody_foresaw_stays_inside(doors, rows, monkeypatch, caplog):
    """Its words and its trace are for the log."""

    def fail(self: Handler, *_: object) -> None:
        raise RuntimeError("/srv/model/secret.py: a bug")

    monkeypatch.setattr("marquee.gateway.doors.graphql_schema._answer", fail)
    response = post(doors, PREDICT, model="digits", items=image(rows[0]["data"]))
    (error,) = response.json()["errors"]
    assert error["extensions"] == {"code": "internal_error", "status": 500}
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert "secret.py: a bug" in caplog.text


def test_without_strawberry_the_start_fails_in_one_line(doors, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "marquee.gateway.doors.graphql_execution", None)
    with pytest.raises(StartError, match=r"marquee\[graphql\]"):
        graphql.operations(doors.gateway)


def test_it_is_one_operation_with_a_scope(doors):
    (operation,) = graphql.operations(doors.gateway)
    assert (operation.path, operation.methods, operation.scope) == ("/graphql", ("POST",), "predict")
    assert [one.path for one in operations(doors.gateway)].count("/graphql") == 1
