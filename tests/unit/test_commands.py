"""The command line: map, help, mistakes in usage, Ctrl-C; all of it is parsed before anything heavy is imported."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import marquee
from marquee.commands.completion import completion
from marquee.commands.main import MAP, VERBS, overview
from marquee.training.core.errors import TrainingError
from tests.conftest import ROOT

MARQUEE = Path(sys.executable).parent / "marquee"
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "sklearn",
    "PIL",
    "matplotlib",
    "rich",
    "requests",
    "psutil",
    "yaml",
)
_PROBE = """
import json, sys
from marquee.commands.main import main
try:
    main()
finally:
    print(json.dumps(sorted(set(sys.modules) & set(HEAVY))), file=sys.stderr)
"""


def probe(*arguments: str) -> tuple[int, str, str, list[str]]:
    """Exit code, stdout, stderr, and the heavy libraries that were imported."""
    code = _PROBE.replace("HEAVY", repr(set(HEAVY)))
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    *stderr, heavy = result.stderr.splitlines()
    return result.returncode, result.stdout, "\n".join(stderr), json.loads(heavy)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_imports_nothing_heavy(verb):
    code, stdout, _, heavy = probe(verb, "--help")
    assert code == 0
    assert "Example: " in stdout
    assert stdout.startswith("usage: ")
    assert heavy == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "x"], "--out"),
        (["train", "--data", "x", "--out", "y", "--loop.epochs", "0"], "epochs: expected at least 1, got 0"),
        (["train", "--data", "x", "--out", "y", "--loop.epoch", "1"], "--loop.epoch"),
        (["train", "--out", "y"], "error: --data is required"),
        (["evaluate"], "RUN"),
        (["optimize"], "give either a RUN or --on-host ARCHIVE"),
        (["serve", "begin"], "no such command"),
        (["serve", "strat"], "did you mean start?"),
        (["serve", "start"], "no model named; example: "),
        (["models", "scale", "x", "--workers", "-1"], "--workers -1: expected 0 or more"),
        (["predict", "x"], "no files named; example: "),
        (["pakcage", "x"], "did you mean package?"),
        (["tune", "x", "--p99-ms", "0"], "p99-ms: expected a positive number"),
    ],
    ids=" ".join,
)
def test_a_mistake_in_usage_costs_no_import(arguments, message):
    code, _, stderr, heavy = probe(*arguments)
    assert code == 2
    assert message in " ".join(stderr.split())
    assert heavy == []


def test_the_map_is_one_screen_and_has_every_verb():
    assert sorted(verb for _, verbs in MAP for verb in verbs) == sorted(VERBS)
    lines = overview().splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 100
    code, stdout, _, heavy = probe("--help")
    assert (code, stdout, heavy) == (0, overview() + "\n", [])
    assert probe()[0] == 2


def test_the_version_is_that_of_the_distribution():
    text = (ROOT / "pyproject.toml").read_text()
    version = text.partition('\nversion = "')[2].partition('"')[0]
    assert probe("--version")[1] == probe("train", "--version")[1] == f"marquee {version}\n"


def test_help_of_one_part_and_of_all():
    _, stdout, _, heavy = probe("train", "--help", "loop")
    assert stdout.startswith("loop: The training loop.\n  --loop.epochs N")
    assert "Passes over the training data. (30)" in stdout
    assert "--optimizer" not in stdout
    assert heavy == []
    everything = probe("train", "--help", "all")[1]
    options = (
        "--image.size N",
        "--optimizer.lr X",
        "--loss.name cross-entropy|bce|focal|mse",
        "--loop.no-channels-last",
    )
    assert all(option in everything for option in options)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_ctrl_c_is_one_line_whenever_it_comes(seconds, digits, tmp_path):
    """While libraries are imported, too, which takes some seconds."""
    command = [MARQUEE, "train", "--data", digits, "--out", tmp_path / "run", "--loop.epochs", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "interrupted" or "--resume" in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["marquee", "pa"], ["package"]),
        (["marquee", "serve", "st"], ["start", "stop", "status"]),
        (["marquee", "serve", "start", "--po"], ["--port"]),
        (["marquee", "train", "--loop.b"], ["--loop.balance", "--loop.batch-size"]),
        (["marquee", "find-lr", "--fr"], ["--from"]),
        (["marquee", "package", "ru"], []),  # nothing of ours: bash completes file names
    ],
    ids=lambda words: " ".join(words),
)
def test_bash_completes(typed, offered, completion_script):
    code = f"source {completion_script}; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; _marquee"
    result = subprocess.run(["bash", "-c", f'{code}; echo "${{COMPREPLY[@]}}"'], capture_output=True, text=True)
    assert result.stdout.split() == offered


@pytest.fixture(scope="module")
def completion_script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "marquee.bash"
    path.write_text(subprocess.run([MARQUEE, "completion", "bash"], capture_output=True, text=True, check=True).stdout)
    return path


def test_other_shells_get_scripts_of_their_own(capsys):
    completion("zsh")
    assert capsys.readouterr().out.startswith("autoload -U +X bashcompinit")
    completion("fish")
    assert "complete -c marquee -n '__fish_seen_subcommand_from serve' -f -a start\n" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["demo", "test", "lint", "install_debian_packages"])
def test_shell_scripts_print_help_and_do_nothing(script, tmp_path):
    """In an empty home, from another folder, without a Python on the PATH: nothing could be installed or run."""
    result = subprocess.run(
        [ROOT / "scripts" / script, "--help"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "absent")},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert result.returncode == 0, result.stderr
    assert f"Example: scripts/{script}" in result.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("installed", "kept"), [("2.13.0+cpu", True), ("2.14.1", False)])
def test_an_installed_cpu_build_of_torch_is_kept(installed, kept, tmp_path):
    """The pins of torch and torchvision, which would replace it by a build of several gigabytes, are left out."""
    (tmp_path / ".venv/lib/python3.11/site-packages" / f"torch-{installed}.dist-info").mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    result = subprocess.run(
        ["sh", "-euc", f". '{ROOT}/scripts/_bootstrap.sh'; constraints"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    pinned = {line.partition("==")[0] for line in result.stdout.splitlines()}
    assert {"torch", "torchvision"} & pinned == (set() if kept else {"torch", "torchvision"})
    assert {"torch-pruning", "torchserve", "numpy"} <= pinned


def test_an_installation_that_is_interrupted_leaves_no_process(tmp_path):
    """Ctrl-C while pip runs ends pip, too, and says so in one line."""
    code = f". '{ROOT}/scripts/_bootstrap.sh'; log=log; sleep 60 & pid=$!; (sleep 0.5; echo $pid) & wait_for $pid"
    process = subprocess.Popen(
        ["sh", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pid = int(process.stdout.readline())
    process.terminate()
    assert process.wait(30) == 1
    assert process.stderr.read() == "interrupted\n"
    assert not psutil.pid_exists(pid)


def test_the_task_and_the_settings_contradict_each_other(tmp_path):
    """Nothing of what was asked for is dropped without a word."""
    (tmp_path / "one.yaml").write_text("task: image-classification\n")
    several = ("train", "--task", "multi-label-classification", "--data", tmp_path, "--out", tmp_path / "run")
    one = ("train", "--task", "image-classification", "--model.multi-label", "--loss.name", "bce", *several[3:])
    for arguments in ((*several, "--config", tmp_path / "one.yaml"), one):
        code, _, stderr, _ = probe(*map(str, arguments))
        assert code == 2
        assert "task: expected" in " ".join(stderr.replace("│", " ").split())
    with pytest.raises(TrainingError, match="task: expected image-classification, which the settings are for"):
        marquee.train(tmp_path, tmp_path / "run", config=marquee.RunConfig(), task="multi-label-classification")
