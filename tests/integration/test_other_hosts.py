"""The bundle gives evaluation's answers behind LitServe, Ray Serve and KServe's server, too (examples/hosts).

Each is installed into an environment of its own, because what they ask for is not what this project is tested with.
"""

import base64
import csv
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT
from tests.environments import environment_with

HOSTS = ROOT / "examples" / "hosts"
PAGE = (ROOT / "docs" / "gateway.md").read_text()
TEXT = b"no image"


class Host(NamedTuple):
    """How to reach one."""

    probe: str
    path: str
    in_instances: bool = False
    """Whether it takes ``{"instances": [...]}``; else a file a request."""


KNOWN = {
    "litserve": Host("/health", "/predict"),
    # With a route for the probe it would be the application's; this is Ray Serve's own.
    "ray": Host("/-/healthz", "/predict"),
    "kserve": Host("/v2/health/ready", "/v1/models/digits:predict", in_instances=True),
}


@pytest.fixture(scope="module")
def rows(run) -> list[dict[str, Any]]:
    """Every fifth test image with evaluation's answer: several of each class, and many batches."""
    with open(run / "predictions.csv", newline="") as stream:
        return [{**row, "data": Path(row["path"]).read_bytes()} for row in list(csv.DictReader(stream))[::5]]


@pytest.fixture
def python(name, tmp_path, request) -> Path:
    """An interpreter that has the host."""
    if name == "kserve":
        return request.getfixturevalue("kserve")
    return environment_with(tmp_path / "venv", HOSTS / f"requirements-{name}.txt")


def visit(python: Path, name: str, run: Path, folder: Path, requests: list[dict[str, str]]) -> list[Any]:
    """Starts the example where nobody else is, and sends it requests."""
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid():
        alone += ["--user", "--map-root-user"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces")
    command = [*alone, str(python), str(ROOT / "tests" / "host_visitor.py"), str(HOSTS / f"{name}_host.py"), str(run)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # the path of a socket has at most 107 bytes
        result = subprocess.run(
            [*command, KNOWN[name].probe],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            timeout=400,
            env={**environment, "RAY_TMPDIR": short},
            check=False,
        )
    assert result.returncode == 0, result.stderr[-5_000:]
    answers: list[Any] = json.loads(result.stdout)
    return answers


def as_requests(host: Host, contents: list[bytes]) -> list[dict[str, str]]:
    """Bodies as the host takes them."""
    if not host.in_instances:
        bodies, kind = contents, "application/octet-stream"
    else:
        texts = [{"b64": base64.b64encode(content).decode()} for content in contents]
        bodies = [json.dumps({"instances": texts[start : start + 12]}).encode() for start in range(0, len(texts), 12)]
        kind = "application/json"
    return [{"path": host.path, "body": base64.b64encode(body).decode(), "type": kind} for body in bodies]


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_all_answers_are_evaluations(name, python, rows, run, tmp_path):
    """And one body that is no image is an error, beside the answers to those that are."""
    host = KNOWN[name]
    contents = [row["data"] for row in rows]
    contents.insert(3, TEXT)
    answers = visit(python, name, run, tmp_path, as_requests(host, contents))
    assert len(answers) >= 6
    if host.in_instances:
        assert {status for status, _ in answers} == {200}
        found = [one for _, body in answers for one in body["predictions"]]
    else:
        assert [status for status, _ in answers] == [400 if content is TEXT else 200 for content in contents]
        found = [body for _, body in answers]
    assert found.pop(3)["error"]["code"] == "not_an_image"
    assert len(found) == len(rows) == 71
    for answer, row in zip(found, rows, strict=True):
        assert answer["label"] == row["predicted"]
        assert answer["probability"] == pytest.approx(float(row[row["predicted"]]), abs=1e-4)


@pytest.mark.parametrize("name", KNOWN)
def test_the_page_shows_what_is_run(name):
    """Each line of the page's excerpt is one of the file that the test above runs, in its order."""
    (excerpt,) = re.findall(rf"<!-- from examples/hosts/{name}_host\.py -->\n```python\n(.*?)```", PAGE, re.S)
    lines = iter((HOSTS / f"{name}_host.py").read_text().splitlines())
    shown = [line for line in excerpt.splitlines() if line]
    assert len(shown) <= 15
    assert [line for line in shown if line not in lines] == []
