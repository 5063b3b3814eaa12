"""The report of a finished run: ``report.html`` and ``MODEL_CARD.md``, from the run folder alone."""

from marquee.training.tasks.image_classification.report.card import write_model_card
from marquee.training.tasks.image_classification.report.page import write_report

__all__ = ["write_model_card", "write_report"]
