"""A process for one piece of work: what it returns, how it fails, how it dies, and that it never outlives its block."""

import operator
import os
import signal
import subprocess
import sys

import psutil
import pytest

from marquee.child import ChildError, child


def test_results_of_what_was_loaded():
    with child(int, "40") as process:
        assert process.ask(operator.add, 2) == 42
        process.submit(operator.sub, 1)
        assert process.poll(60)
        assert process.result() == 39


def test_a_failure_is_one_line_and_the_next_call_goes_on():
    with child(int, "1") as process:
        with pytest.raises(ChildError, match="^unsupported operand type") as caught:
            process.ask(operator.add, "x")
        assert "\n" not in str(caught.value)
        with pytest.raises(ChildError, match="^MemoryError$"):
            process.ask(raise_nothing_said)
        assert process.ask(operator.add, 1) == 2


def raise_nothing_said(loaded):
    raise MemoryError


def test_failing_to_load_is_the_first_result():
    with child(int, "many") as process, pytest.raises(ChildError, match="invalid literal for int.* 'many'$"):
        process.ask(operator.add, 2)


def test_a_death_names_the_signal():
    with child(os.getpid) as process:
        with pytest.raises(ChildError, match=r"^its process was ended by SIGKILL; is there enough memory\?$"):
            process.ask(os.kill, signal.SIGKILL)
        with pytest.raises(ChildError, match="SIGKILL"):
            process.ask(os.kill, 0)


def test_it_leaves_ctrl_c_to_its_parent_and_ends_with_the_block():
    with pytest.raises(KeyboardInterrupt), child(os.getpid) as process:
        pid = process.ask(operator.index)
        os.kill(pid, signal.SIGINT)
        assert process.ask(operator.index) == pid == process.pid
        process.submit(operator.mul, 10**9)  # busy, for all that the parent knows
        raise KeyboardInterrupt
    assert not psutil.pid_exists(pid)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_it_leaves_ctrl_c_to_its_parent_whoever_started_the_fork_server():
    """A DataLoader with loader processes may have done so, where Ctrl-C is not blocked."""
    code = (
        "import multiprocessing, operator, os, signal; from marquee.child import child\n"
        "earlier = multiprocessing.get_context('forkserver').Process(target=int)\n"
        "earlier.start(); earlier.join()\n"
        "with child(os.getpid) as process:\n"
        "    os.kill(process.ask(operator.index), signal.SIGINT)\n"
        "    print(process.ask(operator.index) == process.pid)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout == "True\n", shown.stderr


def test_its_server_has_imported_what_the_work_needs():
    code = (
        "import operator; from marquee.child import child\n"
        "with child(eval, \"'wave' in __import__('sys').modules\", imports=('wave',)) as process:\n"
        "    print(process.ask(operator.truth))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "True\n"
