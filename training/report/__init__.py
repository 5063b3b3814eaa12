"""What a finished run has to say to people: ``report.html`` and ``MODEL_CARD.md``, from the run folder alone."""

from marquee.training.report.card import MODEL_CARD_FILE, write_model_card
from marquee.training.report.page import REPORT_FILE, write_report

__all__ = ["MODEL_CARD_FILE", "REPORT_FILE", "write_model_card", "write_report"]
