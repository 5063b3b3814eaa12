"""Numbers of the report that ``evaluation.json`` does not hold."""

from marquee.training.report.classes import coverage_curve

__all__ = ["coverage_curve"]
