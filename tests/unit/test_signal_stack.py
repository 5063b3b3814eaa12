"""A signal must find a stack, whatever OpenVINO's Cores left behind. Each test has a process of its own, to lose."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# faulthandler gives the main thread the first stack, and makes Python's handlers run on such a one.
_BEFORE = """
import faulthandler, gc, os, signal, sys
from pathlib import Path
faulthandler.enable()
signal.signal(signal.SIGALRM, lambda *_: print("heard"))
"""
_AFTER = """
gc.collect()
os.kill(os.getpid(), signal.SIGALRM)
"""


def run(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _BEFORE + code + _AFTER, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_signal_is_heard_after_engines_came_and_went(tiny_spec, tmp_path):
    (tmp_path / "spec.json").write_text(tiny_spec.to_json())
    code = """
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.bundle import Bundle
bundle = Bundle.read(Path(sys.argv[1]))
first, second = (load_engine(bundle, bundle.spec.variants[0], "cpu") for _ in range(2))
del first
gc.collect()
del second
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_other_peoples_cores_are_survived_inside_the_guard():
    code = """
import openvino as ov
from marquee.handlers.core.engines.openvino_core import core
from marquee.training.workarounds.signal_stack import kept_signal_stack
core()
with kept_signal_stack():
    first, second = ov.Core(), ov.Core()
    for one in (first, second):
        one.get_property("CPU", "FULL_DEVICE_NAME")
    del first, one
    gc.collect()
    del second
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
