"""A shell runs the commands and programs of docs/gateway.md in their order; what it shows for others is tried, too."""

import configparser
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml

from tests import forked
from tests.conftest import ROOT
from tests.pages import choose_ports, run_commands

PAGE = (ROOT / "docs" / "gateway.md").read_text()
SECONDS = 300


@pytest.fixture
def folder(tmp_path, run, store) -> Path:
    """What the page says there is."""
    folder = tmp_path / "my gateway"  # with a space, as folders have
    folder.mkdir()
    shutil.copytree(store, folder / "model_store")
    shutil.copytree(run, folder / "run")
    lines = (run / "predictions.csv").read_text().splitlines()
    image = next(line.split(",")[0] for line in lines if re.search(r"/7/", line) and line.split(",")[1:3] == ["7", "7"])
    shutil.copyfile(image, folder / "7.png")
    return folder


@pytest.mark.slow
def test_the_commands_and_programs_work(folder, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    text = run_commands(PAGE, folder, programs)
    assert text.count("32 golden answers equal") >= 1
    assert "64 golden answers equal" in text
    found = dict(re.findall(r"^([a-z][\w., ]+): (.*)$", text, re.M))
    clients = ["tritonclient, HTTP", "tritonclient, gRPC", "requests, v1", "marquee.Client", "boto3"]
    for client in [*clients, "requests, Azure ML", "requests, Vertex AI", "gql"]:
        assert re.match(r"b?'?7\b", found[client]), (client, found[client])
    assert found["over TLS"] == "True True"
    assert text.count('"label": "7"') + text.count('"label":"7"') >= 10
    assert '"error": {"code": "not_an_image"' in text
    assert "access-control-allow-origin: https://example.org" in text
    assert len(re.findall(r"^stopped the gateway", text, re.M)) == 2


def block(mark: str) -> str:
    (found,) = re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", PAGE, re.S)
    return str(found)


@pytest.mark.slow
def test_the_unit_and_the_pod(folder):
    """The command of the pod, with its probes, until SIGTERM; the unit of systemd has the same command."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[method-assign,assignment]  # as the library's documentation does
    unit.read_string(block("systemd"))
    pod = yaml.safe_load(block("kubernetes"))["spec"]
    (container,) = pod["containers"]
    words = unit["Service"]["ExecStart"].split()
    assert [Path(words[0]).name, *words[1:]] == container["command"][: len(words)]
    assert unit["Service"]["KillMode"] == "mixed"
    assert pod["terminationGracePeriodSeconds"] >= 5 + 30 + 60 <= int(unit["Service"]["TimeoutStopSec"])

    with_free_ports = choose_ports()
    (folder / "config.properties").write_text(with_free_ports((ROOT / "config.properties").read_text()))
    arguments = [with_free_ports(word).replace("0.0.0.0", "127.0.0.1") for word in container["command"][1:]]
    command = [sys.executable, "-m", "marquee", *arguments]
    with forked.Forked(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            lines = []
            for line in process.stdout or ():
                lines.append(line)
                if line.startswith("serving digits at"):
                    break
            assert lines[-1].endswith("32 golden answers equal\n"), "".join(lines)
            port = int(arguments[arguments.index("--gateway") + 1])
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container[name]["httpGet"]
                assert with_free_ports(str(probe["port"])) == str(port)
                assert requests.get(f"http://127.0.0.1:{port}{probe['path']}", timeout=60).status_code == 200
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=SECONDS)[0]
            assert process.returncode == 0, rest
        finally:
            process.kill()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / "marquee.service"
    unit.write_text(
        block("systemd").replace("/srv/marquee/.venv/bin/marquee", sys.executable).replace("User=marquee\n", "")
    )
    command = ["systemd-analyze", "verify", unit]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "marquee.service" not in result.stderr


def test_every_program_of_the_page_is_run():
    """Or is an excerpt of a file that another test runs."""
    for marker, language in re.findall(r"(.*)\n```(sh|python|ini|yaml)\n", PAGE):
        assert re.fullmatch(r"<!-- (run|systemd|kubernetes|from \S+|tested by \S+) -->", marker), (marker, language)
