"""``MODEL_CARD.md``: the facts of a run under the headings of "Model Cards for Model Reporting" (Mitchell et al. 2019).

What a run cannot know (intended use, licence, ethics) is left to the owner, whose text is kept when the card is written
again.
"""

import re
from pathlib import Path
from typing import Any

from marquee.training.core.dataset import SPLITS
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_atomic
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.report import measures
from marquee.training.tasks.image_classification.report.facts import RunFacts, read_facts
from marquee.training.tasks.image_classification.report.text import environment

_OWNED = re.compile(r"<!-- owner: ([\w-]+) -->\n(.*?)\n<!-- end of owner's text -->", re.S)
_CONFUSIONS = 5


def write_model_card(run: Path) -> Path:
    """Writes ``RUN/MODEL_CARD.md`` from the run's own facts; the owner's texts in an earlier one are kept.

    Returns:
        The path of the card.

    Raises:
        TrainingError: the folder is not a finished run, or an earlier card cannot be read.
    """
    facts = read_facts(run)
    path = RunFolder(facts.folder).model_card
    owned = _owners_texts(path)
    card = environment(html=False).get_template("model_card.md").render(_context(facts))
    kept = _OWNED.sub(lambda block: block[0].replace(block[2], owned.get(block[1], block[2])), card)
    write_atomic(path, kept)
    return path


def _owners_texts(path: Path) -> dict[str, str]:
    try:
        return dict(_OWNED.findall(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable, so what its owner wrote would be lost: {error}") from error


def _context(facts: RunFacts) -> dict[str, Any]:
    return {
        "facts": facts,
        "evaluation": facts.evaluation,
        "interval": facts.evaluation["accuracy_interval"],
        "classes": facts.evaluation["per_class"],
        "confusions": measures.top_confusions(facts, _CONFUSIONS),
        "splits": {split: len(facts.manifest.split(split)) for split in SPLITS},
        "calibration": measures.known(facts.evaluation.get("calibration")),
        "abstain": measures.known(facts.evaluation.get("abstain")),
        "ood": measures.known(facts.evaluation.get("ood")),
        "modes": sorted({record.mode for record in facts.manifest.records}),
    }
