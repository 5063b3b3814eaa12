"""The built wheel, in an environment and a folder that know nothing of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.environments import bare_environment, site_packages


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no build folder of the checkout gets into it, and none is left there."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(tmp_path_factory, wheel) -> Path:
    """An environment with the wheel, whose dependencies are borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    python = bare_environment(folder)
    target = ["--target", str(site_packages(folder))]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", *target]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return python


def marquee(python: Path, folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    command = [python, "-m", "marquee", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def test_it_adds_one_package_with_everything_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"marquee"}
    rooms = {room: ROOT / room for room in ("handlers", "training", "serving", "gateway")} | {
        "commands": ROOT / "src/marquee/commands"
    }
    for room, folder in rooms.items():
        sources = {
            f"marquee/{room}/{path.relative_to(folder).as_posix()}"
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert sources <= names
    recipes = {f"marquee/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    assert recipes | {"marquee/py.typed", "marquee/config.properties", "marquee/api.py"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_demo_proves_every_answer(python, tmp_path):
    """The whole way, as scripts/demo goes it after the installation."""
    result = marquee(python, tmp_path, "demo", "--work", "demo")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["accuracy"] >= 0.97
    assert summary["test_images"] == summary["rest_equal"] == summary["grpc_equal"] == 355
    assert summary["golden_checked"] == summary["golden_equal"] == 32
    assert summary["workers_ready"] == 2
    assert f"{python} -m marquee serve start digits --store demo/model_store" in result.stderr
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_a_refused_archive_is_named(python, store, tmp_path, free_port):
    """The log settings come along: without them the reason would stand in no log that is looked at."""
    with zipfile.ZipFile(store / "digits.mar") as source, zipfile.ZipFile(tmp_path / "digits.mar", "w") as changed:
        for entry in source.infolist():
            content = source.read(entry)
            changed.writestr(entry, b"{}" if entry.filename == "bundle/spec.json" else content)
    result = marquee(python, tmp_path, "serve", "start", "digits", "--store", tmp_path, "--port", free_port)
    assert result.returncode == 1
    assert "digits is not served: " in result.stderr
    assert "spec.json" in result.stderr
    assert not (tmp_path / ".torchserve" / "server.json").exists()
