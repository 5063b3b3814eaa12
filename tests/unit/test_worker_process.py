"""A worker whose device is lost ends, so that TorchServe starts a new one; other errors leave it alone."""

import logging
import os

import pytest
import torch

from marquee.handlers.core.worker_process import exit_if_device_is_lost


class Ended(BaseException):
    """In place of the process's end."""


@pytest.fixture(autouse=True)
def exits(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(logging, "shutdown", lambda: None)  # it would close the handlers of pytest


def test_a_lost_device_ends_the_worker(caplog):
    with pytest.raises(Ended) as ended:
        exit_if_device_is_lost(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert ended.value.args == (1,)
    assert "device-side assert" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("shape '[1]' is invalid for input of size 2"),
    ],
)
def test_the_worker_outlives_other_errors(error):
    exit_if_device_is_lost(error)
