"""A command that a message names works as printed, however this one was called."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from marquee import hints
from marquee.commands.main import VERBS
from tests.conftest import ROOT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("scripts/train.py", "scripts/select_model.py RUN 'a b'"),
        (f"{ROOT}/scripts/train.py", f"{ROOT}/scripts/select_model.py RUN 'a b'"),
        (str(BIN / "marquee"), f"{BIN}/marquee select RUN 'a b'"),
        ("somewhere/notebook.py", "-m marquee select RUN 'a b'"),
    ],
)
def test_a_hint_names_the_program_as_it_was_called(started, shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [started])
    assert hints.command("select", "RUN", "a b").endswith(shown)


def test_on_the_path_a_hint_is_short(monkeypatch):
    monkeypatch.setenv("PATH", f"{BIN}:/usr/bin:/bin")
    monkeypatch.chdir(ROOT)
    for started in (str(BIN / "marquee"), "somewhere/notebook.py"):
        monkeypatch.setattr(sys, "argv", [started])
        assert hints.command("package", "runs/a") == "marquee package runs/a"
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    assert hints.command("package", "runs/a") == "python scripts/package.py runs/a"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "completion"])
def test_every_verb_has_a_script(verb):
    assert (ROOT / "scripts" / f"{hints.SCRIPTS.get(verb, verb)}.py").is_file()


@pytest.mark.parametrize("way", ["script", "marquee", "module"])
def test_a_hint_works_as_printed(way, tmp_path):
    """An archive that is not there is to be served; what the message says is then typed into a shell right there."""
    command = {
        "script": [sys.executable, str(ROOT / "scripts" / "serve.py")],
        "marquee": [str(BIN / "marquee"), "serve"],
        "module": [sys.executable, "-m", "marquee", "serve"],
    }[way]
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [*command, "start", "a b"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    shown = result.stderr.strip().partition("make it with: ")[2]
    assert re.search(r"package(\.py)? RUN --name 'a b' --store \S+model_store$", shown), result.stderr
    again = subprocess.run(
        ["/bin/sh", "-c", shown], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert again.stderr.startswith("error: RUN: neither a run nor a bundle; train one: ")
    assert again.stderr.strip().endswith("--data DATA --out RUN")
