"""The process that TorchServe starts for a worker: its log, its device, and its end where the device is lost."""

import logging
import os

import torch

logger = logging.getLogger(__name__)


def silence_request_log() -> None:
    """TorchServe's worker logs a line for every batch, on a root logger that also carries the metrics."""

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Backend received inference")

    for handler in logging.getLogger().handlers:
        handler.addFilter(keep)


def device_of(gpu_id: int | None) -> str:
    """The device of a worker to which the front end gave this GPU."""
    if gpu_id is not None and torch.cuda.is_available():
        return f"cuda:{gpu_id}"
    return "cpu"


def exit_if_device_is_lost(error: Exception) -> None:
    """After a CUDA fault every later call fails too; a new process is the only cure, and TorchServe starts one.

    A lack of memory is none, even where CUDA itself reports it, as when a kernel that is needed for the first time
    cannot be loaded: the next call may succeed.
    """
    fault = getattr(torch, "AcceleratorError", None)
    if fault is not None and isinstance(error, fault) and "out of memory" not in str(error):
        logger.critical("the device is lost, this worker ends: %s", error)
        logging.shutdown()
        os._exit(1)
