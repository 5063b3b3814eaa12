"""Runs one step in a process of its own: ``python -m benchmarks.gpu.child MODULE SITE``, SITE as JSON."""

import faulthandler
import importlib
import signal
import sys

from benchmarks.gpu.step import Report, Site
from marquee.log import log_to_stderr

_BEFORE_THE_END = 3.0
"""Seconds before the time limit at which the log gets a traceback of every thread, to show where a step hangs."""


def main(module: str, site: Site) -> None:
    """Runs the step of a module; an exception becomes its last row."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, site.seconds - _BEFORE_THE_END))
    # The driver ends a step by SIGTERM first, so that what the step has started can be stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log_to_stderr()
    report = Report(site.rows)
    with report.guard("the step"):
        importlib.import_module(module).run(site, report)


if __name__ == "__main__":
    main(sys.argv[1], Site.from_json(sys.argv[2]))
