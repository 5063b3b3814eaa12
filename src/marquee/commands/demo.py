"""Run the whole workflow, from data to a scaled endpoint, and compare every answer with evaluation's.

--task images trains a classifier of scikit-learn's digits; --task tabular a linear regression on its diabetes data.

Example: marquee demo --work .demo

The steps are shown on stderr; the last line of stdout is one JSON object.
"""

import json
import time
from pathlib import Path
from typing import Literal, Optional

from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible


def demo(
    work: Path = Path(".demo"), task: Literal["images", "tabular"] = "images", started: Optional[float] = None
) -> int:
    """Runs all steps.

    Args:
        work: Folder for data, run, archive and logs; emptied first.
        task: What to train: a classifier of images, or a regression on a table.
        started: Start time in seconds since the epoch, so that scripts/demo can include the installation.
    """
    started = started or time.time()
    with interruptible():
        from marquee.commands.demos.diabetes import Diabetes
        from marquee.commands.demos.digits import Digits
        from marquee.commands.demos.steps import Demo, run_demo
    demos: dict[str, Demo] = {"images": Digits(), "tabular": Diabetes()}
    print(json.dumps(run_demo(demos[task], work, started)))
    return 0


def main() -> int:
    """Entry point."""
    return parse_arguments("demo", demo, __doc__)
