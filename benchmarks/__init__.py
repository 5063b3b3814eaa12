"""Measurements of the project beside what could replace it; run from its folder as ``python -m benchmarks...``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder."""
