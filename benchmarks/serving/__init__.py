"""Measurements of serving."""

from benchmarks import ROOT

RESULTS = ROOT / "benchmarks" / "serving" / "results"
"""Folder of the result files."""
