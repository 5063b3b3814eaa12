"""The report of a finished run on a table: ``report.html`` and ``MODEL_CARD.md``, from the run folder alone."""

from marquee.training.tasks.tabular.report.write import write, write_model_card, write_report

__all__ = ["write", "write_model_card", "write_report"]
