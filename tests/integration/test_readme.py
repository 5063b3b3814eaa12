"""README's commands are run, in their order, by a shell, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marquee.serving.settings import Addresses
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_every_command_is_run_or_says_why_not():
    blocks = re.findall(r"(.*)\n```sh\n", README)
    assert len(blocks) >= 5
    for marker in blocks:
        assert re.fullmatch(r"<!-- run -->|<!-- not run: .+ -->", marker), marker


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_are_named_exist():
    for page in ("README.md", "docs/architecture.md", "docs/serving.md", "CONTRIBUTING.md"):
        for name in re.findall(
            r"(?:scripts|tests|serving|handlers|training)/[\w/]+\.(?:py|xml)", (ROOT / page).read_text()
        ):
            assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.slow
def test_the_commands_work(tmp_path, digits):
    copy = tmp_path / "my project"  # with a space, as folders have
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    shutil.copytree(digits, copy / ".demo" / "data")
    base = Addresses.free(23100).base_port
    ports = {"8080": base, "8081": base + 1, "8082": base + 2, "7070": base + 3, "7071": base + 4}

    def with_free_ports(text: str) -> str:
        return re.sub(r"\b(8080|8081|8082|7070|7071)\b", lambda match: str(ports[match[0]]), text)

    config = copy / "config.properties"
    config.write_text(with_free_ports(config.read_text()))
    commands = "\n".join(re.findall(r"<!-- run -->\n```sh\n(.*?)```", README, re.S))
    commands = with_free_ports(commands).replace("curl ", "curl --fail-with-body -sS ")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    log = tmp_path / "log"
    with open(log, "w") as stream:
        result = subprocess.run(
            ["bash", "-euxc", commands],
            cwd=copy,
            env=environment,
            stdout=stream,
            stderr=stream,
            timeout=500,
            check=False,
        )
    try:
        text = log.read_text()
        assert result.returncode == 0, text
        assert text.count('"label": "7"') >= 3
        assert re.search(r"test accuracy 0\.9[5-9]", text), text
        assert "32 golden answers equal" in text
        assert "stopped pid" in text
    finally:
        script = copy / "scripts" / "serve.py"
        subprocess.run([sys.executable, script, "stop"], cwd=copy, env=environment, capture_output=True, check=False)
