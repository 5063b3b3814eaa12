"""Measurements of the project beside what could replace it; run from its folder as ``python -m benchmarks...``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder."""

# The commands here end as those of scripts/ do: one line for an error, exit code 1.
sys.path.append(str(ROOT / "scripts"))
