"""What a finished run has to say to people: ``report.html`` and ``MODEL_CARD.md``, from the run folder alone."""

from marquee.training.report.card import write_model_card
from marquee.training.report.page import write_report

__all__ = ["write_model_card", "write_report"]
