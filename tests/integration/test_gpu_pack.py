"""The GPU pack on the CPU: through its door, with nothing but the packages that it needs, and where steps fail."""

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from benchmarks.gpu.driver import Plan, run, share
from benchmarks.gpu.material import draw_digits, photographs
from benchmarks.gpu.page import render
from benchmarks.gpu.plan import STEPS, absent
from benchmarks.gpu.step import Report, Site, Step, environment, read_rows
from tests import forked
from tests.conftest import ROOT

NEEDED = ("torch", "numpy", "pillow", "safetensors", "timm")
_WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in NAMES else super().find_spec(name, path, target)

    @staticmethod
    def find_distributions(*context):
        found = PathFinder.find_distributions(*context)
        return (one for one in found if one.metadata["Name"].lower().replace("_", "-").replace(".", "-") in KEPT)

NAMES, KEPT = frozenset(ABSENT), frozenset(PRESENT)
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
_TRAIN = """
import json, sys
from pathlib import Path

from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.log import log_to_stderr
from marquee.training.core.config import merge_config
from marquee.training.core.evaluation import evaluate
from marquee.training.core.run import train
from marquee.training.tasks.image_classification.config import ImageRunConfig

log_to_stderr()
data, out = map(Path, sys.argv[1:])
settings = {
    "image": {"size": 16},
    "model": {"arch": "cnn4_w8"},
    "loop": {"epochs": 1, "batch_size": 8, "workers": 0, "device": "cpu", "ema": 0.9},
}
trained = train(merge_config(ImageRunConfig(), settings), data, out, report=False)
predictor = Predictor.load(out / "bundle")
measured = evaluate(predictor, data, seen=True)
print(json.dumps({"split": trained["split"], "images": len(measured.records), "differences": replay(predictor)}))
"""

_IMPORT = """
import importlib, pkgutil

import benchmarks.gpu.steps as steps

names = [f"steps.{module.name}" for module in pkgutil.iter_modules(steps.__path__) if module.name != "served"]
for name in [*names, "endings", "ranks", "short_of_memory"]:
    importlib.import_module(f"benchmarks.gpu.{name}")
print(*names)
"""


def with_dependencies(packages: Iterable[str]) -> set[str]:
    """Packages, and what they depend on."""
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        for one in map(Requirement, wanted):
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                waiting.append(one.name)
    return found


def bare(folder: Path, packages: Iterable[str]) -> dict[str, str]:
    """The environment of a Python that can import these packages, and no other that is installed."""
    kept = with_dependencies(packages)
    absent = sorted(
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if name != "marquee" and not kept & {canonicalize_name(owner) for owner in owners}
    )
    assert {"tyro", "rich", "psutil", "tensorboard", "matplotlib"} <= set(absent)
    assert ("scipy" in absent) == ("scikit-learn" not in kept)
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_WITHOUT.replace("ABSENT", repr(absent)).replace("PRESENT", repr(kept)))
    return environment(PYTHONPATH=os.pathsep.join([str(folder), str(ROOT), str(ROOT / "src")]))


def door(*arguments: object, env: dict[str, str] | None = None, timeout: float = 400) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return forked.run(command, cwd=ROOT, env=env, timeout=timeout)


def result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_training_and_evaluation_need_six_packages(tmp_path):
    """Evaluation calibrates, which takes scikit-learn and what comes with it."""
    random = np.random.default_rng(0)
    for number in range(48):
        path = tmp_path / "data" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 128, (20, 24, 3), np.uint8) + np.uint8(number % 2 * 127)).save(path)
    command = [sys.executable, "-c", _TRAIN, tmp_path / "data", tmp_path / "run"]
    env = bare(tmp_path / "site", [*NEEDED, "scikit-learn"])
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"split": "test", "images": 48, "differences": []}
    assert "tensorboard is not installed" in done.stderr


def test_every_module_is_imported_with_five_packages(tmp_path):
    """Those that want scikit-learn, too, import it where they use it."""
    command, env = [sys.executable, "-c", _IMPORT], bare(tmp_path / "site", NEEDED)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {f"steps.{step.name}" for step in STEPS} - imported == {"steps.served"}
    assert "steps.worker" in imported


def test_what_is_absent_is_named_and_the_rest_goes_on(tmp_path):
    env = bare(tmp_path / "site", NEEDED)
    done = door("--device", "cpu", "--steps", "digits", "throughput", "--out", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stderr
    digits, throughput = result_of(tmp_path / "out")["steps"]
    assert (digits["status"], throughput["status"]) == ("skipped", "done")
    assert not [row for row in throughput["rows"] if row["kind"] == "error"]
    page = (tmp_path / "out" / "page.md").read_text()
    assert "nothing on this page is about a GPU" in page
    assert "needs sklearn" in page
    assert "Absent: scikit-learn, scipy, tensorboard, tyro, rich, psutil, matplotlib" in page
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_step_on_the_cpu(tmp_path):
    # Other tests run beside it.
    done = door("--device", "cpu", "--minutes", "24", "--out", tmp_path / "out", timeout=1450)
    result = result_of(tmp_path / "out")
    wrong = [row for step in result["steps"] for row in step["rows"] if row["right"] is False]
    assert not wrong
    assert done.returncode == 0, done.stderr
    ended = {step["name"]: step["status"] for step in result["steps"]}
    served = "done" if importlib.util.find_spec("ts") else "skipped"
    assert ended == {**dict.fromkeys((step.name for step in STEPS), "done"), "served": served}
    assert all(step["rows"] for step in result["steps"] if step["status"] == "done")


class TestDoor:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--steps", "digits", "juggling"], "no step juggling; there are digits, resume"),
            (["--minutes", "0"], "expected more than 0, got 0"),
            (["--out", str(ROOT / "tests")], "exists already; choose a new folder"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, arguments, message):
        done = door("--device", "cpu", *arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr

    def test_no_cuda_device(self, tmp_path):
        done = door("--out", tmp_path / "out", env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        assert done.returncode == 2
        assert "finds no CUDA device; with --device cpu the same steps run small" in done.stderr
        assert not (tmp_path / "out").exists()


def step_that(folder: Path, name: str, weight: float, code: str, packages: tuple[str, ...] = ()) -> Step:
    """A step with a module of its own, whose ``run`` has this body."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    (folder / f"gpu_step_{name}.py").write_text(
        f"import os, subprocess, sys, time\nfrom pathlib import Path\n\ndef run(site, report):\n{body}"
    )
    return Step(name=name, title=name.title(), module=f"gpu_step_{name}", weight=weight, packages=packages)


SLEEPS = """
report.row("before", 1, "image")
process = subprocess.Popen(["sleep", "300"])
(site.shared / "pid").write_text(str(process.pid))
time.sleep(300)
"""


def test_a_step_that_fails_or_hangs_ends_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    steps = [
        step_that(tmp_path, "hangs", 0.5, SLEEPS),
        # It takes no time from the others.
        step_that(tmp_path, "needs_more", 500.0, "report.row('never')", packages=("juggling",)),
        step_that(tmp_path, "dies", 1.0, "print('about to die')\nsys.stdout.flush()\nos._exit(3)"),
        step_that(tmp_path, "crashes", 1.0, "import ctypes\nctypes.string_at(0)"),
        step_that(tmp_path, "raises", 1.0, "report.row('first', 'x')\nraise ValueError('wrong\\nreally')"),
        step_that(tmp_path, "goes_on", 1.0, "with report.guard('a'):\n    1 / 0\nreport.row('b', right=True)"),
        step_that(tmp_path, "works", 1.0, "report.row('all', 2.5, 'GB', right=True)"),
    ]
    out = tmp_path / "out"
    assert run(Plan(steps=steps, device="cpu", minutes=2.0, out=out)) == 1
    hangs, needs_more, dies, crashes, raises, goes_on, works = result_of(out)["steps"]
    assert hangs["status"] == "timed out"
    assert [row["name"] for row in hangs["rows"]] == ["before", "the step"]
    assert hangs["rows"][1]["note"].startswith("timed out after ")
    assert 5 < hangs["limit"] <= hangs["seconds"] < 30
    assert (needs_more["status"], needs_more["reason"], needs_more["rows"]) == ("skipped", "needs juggling", [])
    ended((out / "work" / "shared" / "pid").read_text())
    assert (dies["status"], dies["rows"][0]["note"]) == ("failed", "ended with code 3: about to die")
    assert crashes["rows"][0]["note"].startswith("ended by SIGSEGV")
    assert [row["note"] for row in raises["rows"]] == ["", "ValueError: wrong"]
    assert [(row["name"], row["right"]) for row in goes_on["rows"]] == [("a", False), ("b", True)]
    assert works["status"] == "done"
    page = (out / "page.md").read_text()
    assert "| all | 2.5 GB | yes |" in page
    assert "| hangs | Hangs | timed out |" in page
    assert "gpu_step_hangs.py" in (out / "logs" / "hangs.log").read_text()  # where it hung


def test_ctrl_c_keeps_what_was_done(tmp_path):
    step_that(tmp_path, "quick", 1.0, "report.row('quick', 1.0)")
    step_that(tmp_path, "slow", 1.0, SLEEPS)
    code = (
        "import sys; from pathlib import Path; from benchmarks.gpu.driver import Plan, run; "
        "from benchmarks.gpu.step import Step; "
        "steps = [Step(name=n, title=n, module='gpu_step_' + n) for n in ('quick', 'slow')]; "
        "sys.exit(run(Plan(steps=steps, device='cpu', minutes=5.0, out=Path(sys.argv[1]))))"
    )
    out = tmp_path / "out"
    paths = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "src")])
    driver = subprocess.Popen([sys.executable, "-c", code, str(out)], cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
    try:
        until(lambda: (out / "work" / "shared" / "pid").exists() and (out / "work" / "shared" / "pid").read_text())
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == 130
    finally:
        driver.kill()
        driver.wait()
    result = result_of(out)
    assert result["interrupted"]
    quick, slow = result["steps"]
    assert (quick["status"], slow["status"]) == ("done", "interrupted")
    assert [row["name"] for row in slow["rows"]] == ["before"]
    assert "The run was interrupted" in (out / "page.md").read_text()
    ended((out / "work" / "shared" / "pid").read_text())


def ended(pid: str) -> None:
    """Waits until a process that was killed is gone, or waits for a parent that does not ask for its end."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid))
        until(lambda: process.status() == psutil.STATUS_ZOMBIE, 20)


def until(happened, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_step_leaves_goes_to_those_after_it():
    assert share(480, [1, 2, 1]) == 120
    assert share(470, [2, 1]) == pytest.approx(313.3, abs=0.1)
    assert share(-3, [1]) == 0


def test_a_package_that_is_too_old_is_absent(monkeypatch):
    step = Step(name="x", title="X", module="x")
    assert absent(step) == []
    found = {"torch": "2.8.0+cu126", "timm": "1.0.15.dev0"}
    monkeypatch.setattr("benchmarks.gpu.plan.importlib.metadata.version", found.__getitem__)
    assert absent(step) == ["torch 2.9 (it is 2.8.0+cu126)"]


def test_numbers_that_are_not_finite_are_text(tmp_path):
    report = Report(tmp_path / "rows.jsonl")
    report.row("a figure", float("inf"))
    report.row("wanted", float("nan"), right=True, wanted="0")
    report.row("compared", np.float64("-inf"), right=np.bool_(True))
    assert [(row["value"], row["right"]) for row in read_rows(report.path)] == [
        ("inf", None),
        ("nan", False),
        ("-inf", False),
    ]


def test_rows_survive_a_kill(tmp_path):
    site = Site(device="cpu", work=tmp_path / "digits", shared=tmp_path, seconds=10.0)
    assert Site.from_json(site.to_json()) == site
    report = Report(site.rows)
    report.row("speed", 12.5, "images/s", right=np.bool_(True), wanted="more")
    report.skip("java", "needs java")
    with report.guard("fails"):
        raise RuntimeError
    with site.rows.open("a") as file:
        file.write('{"kind": "row", "na')  # killed here
    rows = read_rows(site.rows)
    assert [(row["name"], row["kind"], row["right"], row["note"]) for row in rows] == [
        ("speed", "row", True, ""),
        ("java", "skipped", None, "skipped: needs java"),
        ("fails", "error", False, "RuntimeError"),
    ]


def test_the_page_of_a_gpu_names_it():
    gpu = {"name": "NVIDIA H100", "capability": "9.0", "memory_gb": 85.0, "multiprocessors": 132}
    machine = {"cpu": "EPYC", "cores": 16, "memory_gb": 128.0, "platform": "Linux", "python": "3.12.3"}
    machine |= {"torch": "2.11.0", "gpus": [gpu], "driver": "580.1", "packages": {"tyro": ""}, "programs": {}}
    row = {"kind": "row", "name": "a|b", "value": 12345.6, "unit": "images/s", "right": False, "wanted": "", "note": ""}
    step = {"name": "x", "title": "X", "status": "done", "seconds": 1.0, "limit": 2.0, "rows": [row]}
    result = {"device": "cuda", "machine": machine, "interrupted": False, "command": "c", "date": "d", "commit": "e"}
    page = render({**result, "steps": [step]})
    assert page.startswith("# GPU pack: NVIDIA H100\n")
    assert "nothing on this page is about a GPU" not in page
    assert "| a\\|b | 12,346 images/s | **no** |" in page
    assert "Absent: tyro." in page


def test_material_is_the_same_in_every_call(tmp_path):
    images, labels = draw_digits()
    assert (images.shape, images.dtype) == ((600, 16, 16), np.uint8)
    assert (images == draw_digits()[0]).all()
    assert set(labels.tolist()) == set(range(10))
    sites = [Site(device="cpu", work=tmp_path / "w", shared=tmp_path / name, seconds=1.0) for name in "ab"]
    folders = [photographs(site, 20) for site in sites]
    files = [sorted(folder.rglob("*.jpg")) for folder in folders]
    contents = [[file.read_bytes() for file in some] for some in files]
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 20
    assert 40_000 < np.mean([len(content) for content in contents[0]]) < 200_000
    with Image.open(files[0][0]) as image:
        assert (image.size, image.mode) == ((500, 375), "RGB")
