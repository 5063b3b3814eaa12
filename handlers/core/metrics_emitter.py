"""Reports a worker's metrics as TorchServe wants them: lines on the worker's output, which its front end adds up.

A line looks like ``[METRICS]NAME.UNIT:VALUE|#LABEL:TEXT,...|#type:COUNTER|#hostname:HOST,SECONDS``. TorchServe's own
metric objects write it; the front end adds the label ``Hostname``. It takes metrics that no configuration file names
only with ``model_metrics_auto_detect=true``, and else leaves them out without a word.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from .counters import Accumulator, Increment

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two reports, and the most that is lost with a worker; TorchServe kills those that it scales away."""

_SEPARATORS = frozenset(",:|%")


class Emitter:
    """Reports what an accumulator has counted.

    Args:
        cache: TorchServe's ``context.metrics``.
        common: label name -> value, for every series of this worker.
    """

    def __init__(self, cache: Any, common: Mapping[str, str]) -> None:
        self._cache = cache
        self._common = tuple(common.items())
        self._known: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._complained = False

    def start(self, accumulator: Accumulator) -> None:
        """From now on reports what ``accumulator`` counts, :data:`INTERVAL` seconds after it was counted.

        A thread does it, so that no request waits, and nothing waits for a request that may never come.
        """

        def report() -> None:
            while accumulator.wait():
                time.sleep(INTERVAL)
                self.emit(accumulator.drain())

        threading.Thread(target=report, name="metrics", daemon=True).start()

    def emit(self, increments: Iterable[Increment]) -> None:
        """Writes one line for each increment of a counter. Never raises: what goes wrong is logged once."""
        self._write(increments, gauge=False)

    def emit_gauge(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Writes the value of a gauge. Never raises."""
        self._write([Increment(name, tuple(labels.items()), value, "Count")], gauge=True)

    def _write(self, increments: Iterable[Increment], gauge: bool) -> None:
        with self._lock:
            try:
                for increment in increments:
                    labels = (*self._common, *increment.labels)
                    metric = self._metric(increment, [name for name, _ in labels], gauge)
                    metric.add_or_update(increment.value, [label_value(text) for _, text in labels])
            except Exception:
                # A server of another version, a closed pipe: answers matter more than what is told about them.
                if not self._complained:
                    logger.exception("metrics cannot be reported; requests are answered as before")
                self._complained = True

    def _metric(self, increment: Increment, labels: list[str], gauge: bool) -> Any:
        """TorchServe's object for one name. Those that ``add_counter`` makes would carry labels of its own choice."""
        if increment.name not in self._known:
            metric = self._cache.add_metric_to_cache(increment.name, increment.unit, labels)
            if gauge:
                # The kinds are an enumeration of TorchServe's, which this package does not import.
                metric.metric_type = type(metric.metric_type).GAUGE
            self._known[increment.name] = metric
        return self._known[increment.name]


def label_value(text: str) -> str:
    """``text`` without what separates the parts of a line, which becomes ``%XX``, as in a URL."""
    if not text:
        return "%"  # the front end drops a label without value; no encoded text is a lone %
    if text.isprintable() and not _SEPARATORS & set(text):
        return text
    return "".join(
        char if char.isprintable() and char not in _SEPARATORS else quote(char, safe="", errors="replace")
        for char in text
    )
