"""``report.html``, a self-contained page about a run, which loads nothing; and ``MODEL_CARD.md``."""

from pathlib import Path

from marquee.training.core.files import write_atomic
from marquee.training.core.run_folder import RunFolder
from marquee.training.report.card import write_card
from marquee.training.report.text import environment
from marquee.training.tasks.tabular.report.card import card_context
from marquee.training.tasks.tabular.report.classification_page import classification_context
from marquee.training.tasks.tabular.report.facts import ClassificationFacts, RegressionFacts, read_facts
from marquee.training.tasks.tabular.report.regression_page import regression_context

Facts = RegressionFacts | ClassificationFacts


def write(run: Path) -> dict[str, Path]:
    """Writes both and returns their paths.

    Raises:
        TrainingError: the folder is not a finished run, or an earlier card cannot be read; the message names the file.
    """
    facts = read_facts(run)
    return {"report": _write_page(facts), "model_card": _write_card(facts)}


def write_report(run: Path) -> Path:
    """Writes ``RUN/report.html`` and returns its path.

    Raises:
        TrainingError: the folder is not a finished run; the message names the file.
    """
    return _write_page(read_facts(run))


def write_model_card(run: Path) -> Path:
    """Writes ``RUN/MODEL_CARD.md`` and returns its path; the owner's texts in an earlier one are kept.

    Raises:
        TrainingError: the folder is not a finished run, or an earlier card cannot be read.
    """
    return _write_card(read_facts(run))


def _write_page(facts: Facts) -> Path:
    templates = environment(__package__, html=True)
    if isinstance(facts, RegressionFacts):
        page = templates.get_template("regression.html").render(regression_context(facts))
    else:
        page = templates.get_template("classification.html").render(classification_context(facts))
    path = RunFolder(facts.folder).report
    write_atomic(path, page)
    return path


def _write_card(facts: Facts) -> Path:
    name = "regression_card.md" if isinstance(facts, RegressionFacts) else "classification_card.md"
    path = RunFolder(facts.folder).model_card
    write_card(path, environment(__package__, html=False).get_template(name), card_context(facts))
    return path
