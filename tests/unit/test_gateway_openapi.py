"""The OpenAPI document is true: schemathesis sends what it allows, and what it does not, and looks at the answers."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from marquee.gateway.access.check import KeyAccess
from marquee.gateway.access.keys import KeyStore
from marquee.gateway.access.scope import SCOPES
from marquee.gateway.app import operations
from tests.gateway_server import HttpGateway
from tests.lazily import lazily
from tests.properties import FACTOR
from tests.table_forms import make_models

schemathesis = lazily("schemathesis")
openapi_checks = lazily("schemathesis.specs.openapi.checks")
EXAMPLES = 3 * FACTOR
"""Requests to each method of each path, of either kind."""
CHECKS = [
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "status_code_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]
PLACES = [("digits", "1.0"), ("flowers", "1.0"), ("digits", "9"), ("nothing", "1.0")]
"""Models and versions that are asked."""
MANAGEMENT = "TorchServe management"
"""A host inside this process has none, and says so with 501, which is no error of the server."""


@pytest.fixture(scope="module")
def tables(once, script) -> Path:
    return once("tables", lambda folder: make_models(folder, script))


@pytest.fixture(scope="module")
def locked(store, tables, tmp_path_factory):
    """A server, and a key that may do everything."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    key = KeyStore(keys).add("everything", scopes=SCOPES)
    archives = {"digits": store / "digits.mar", "flowers": tables / "store" / "flowers.mar"}
    with HttpGateway(archives, access=KeyAccess(keys), graphql=True) as running:
        yield running, {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def schema(locked):
    return schemathesis.openapi.from_url(f"{locked[0].url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_operation(schema, locked, mode):
    """What is sent is made from the document: valid, or with a mistake; models are mostly such as there are."""
    mode = schemathesis.GenerationMode(mode)
    asked, failures = set(), []
    for found in schema.get_all_operations():
        operation = found.ok()
        try:
            _try_out(operation, mode, locked[1])
            asked.add(operation.label)
        except Unsatisfiable:
            pass  # without parameters and without a body there is nothing to be wrong
        except Exception as error:
            failures.append(f"{operation.label}: {error} {getattr(error, 'exceptions', '')}")
    assert not failures, "\n\n".join(failures)
    assert len(asked) > (70 if mode == schemathesis.GenerationMode.POSITIVE else 60)


def _try_out(operation: Any, mode: Any, headers: dict[str, str]) -> None:
    checks = [getattr(openapi_checks, name) for name in CHECKS]
    if MANAGEMENT not in operation.tags:
        checks.append(schemathesis.checks.not_a_server_error)

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode), st.sampled_from(PLACES))
    def send(case: Any, place: tuple[str, str]) -> None:
        where = {"name": place[0], "version": place[1], "endpoint": place[0]}
        case.path_parameters = {name: where[name] for name in case.path_parameters or {}}
        case.call_and_validate(headers={**(case.headers or {}), **headers}, checks=checks)

    send()


def test_good_answers(schema, locked, digits):
    """Bodies that are answered: what is made from the document hardly ever is an image."""
    server, headers = locked
    content = next((digits / "test" / "3").iterdir()).read_bytes()
    text = base64.b64encode(content).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    tensor["parameters"] = {"content_type": "base64"}
    bodies: dict[str, dict[str, Any]] = {
        "/v2/": {"json": {"inputs": [tensor]}},
        "/v1/": {"json": {"instances": [{"b64": text}]}},
        "/vertex/": {"json": {"instances": [{"b64": text}]}},
        "/graphql": {"json": {"query": "{ models { name } }"}},
        "/": {"data": content},
    }
    answered = []
    for path, methods in schema.items():
        for method, operation in methods.items():
            if "requestBody" not in operation.definition.raw or MANAGEMENT in operation.tags:
                continue
            options = next(options for start, options in bodies.items() if path.startswith(start))
            options = {"json": {}} if path.endswith("/index") else options
            url = server.url + path.format(name="digits", version="1.0", endpoint="digits")
            response = requests.request(method, url, headers=headers, timeout=60, **options)
            assert response.status_code == 200, (path, response.text)
            operation.validate_response(response)
            answered.append((method, path))
    assert len(answered) >= 30


def test_all_operations_are_in_it(schema, locked):
    documented = {(method.upper(), path) for path, methods in schema.items() for method in methods}
    served = {(method, operation.path) for operation in operations(locked[0].gateway) for method in operation.methods}
    assert documented == served
    identifiers = [operation.ok().definition.raw["operationId"] for operation in schema.get_all_operations()]
    assert len(set(identifiers)) == len(identifiers)


def test_who_needs_a_key(schema, store):
    for found in schema.get_all_operations():
        raw = found.ok().definition.raw
        assert bool(raw["security"]) == ("401" in raw["responses"])
    with HttpGateway({}) as running:  # nobody is asked for a key
        document = requests.get(f"{running.url}/openapi.json", timeout=60).json()
    entries = [entry for methods in document["paths"].values() for entry in methods.values()]
    assert all(not entry["security"] and "401" not in entry["responses"] for entry in entries)
    assert "components" not in document


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_the_page(schema, locked):
    response = requests.get(f"{locked[0].url}/docs", timeout=60)
    page = _Page(response.text)
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags
    assert tags.count("style") == 1
    targets = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert targets == ["/openapi.json"]  # nothing comes from elsewhere
    for path in schema:
        assert f"<code>{path}</code>" in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"style-src 'sha256-[A-Za-z0-9+/=]+'", policy)
    assert "unsafe" not in policy


def test_names_of_models_are_no_secret_that_it_tells(locked):
    """Everybody may read the document; which models there are needs a key."""
    assert "flowers" not in json.dumps(requests.get(f"{locked[0].url}/openapi.json", timeout=60).json())
