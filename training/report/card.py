"""``MODEL_CARD.md``: the facts of a run under the headings of "Model Cards for Model Reporting" (Mitchell et al. 2019).

What a run cannot know (intended use, licence, ethics) is left to the owner, whose text is kept when the card is written
again.
"""

import re
from pathlib import Path
from typing import Any

import jinja2

from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_atomic

_OWNED = re.compile(r"<!-- owner: ([\w-]+) -->\n(.*?)\n<!-- end of owner's text -->", re.S)


def write_card(path: Path, template: jinja2.Template, context: dict[str, Any]) -> None:
    """Writes a card; the owner's texts in an earlier one are kept.

    Args:
        path: of the card.
        template: its questions to the owner are those of ``shared/owner.md``.
        context: the template's values.

    Raises:
        TrainingError: an earlier card cannot be read.
    """
    owned = _owners_texts(path)
    card = template.render(context)
    write_atomic(path, _OWNED.sub(lambda block: block[0].replace(block[2], owned.get(block[1], block[2])), card))


def _owners_texts(path: Path) -> dict[str, str]:
    try:
        return dict(_OWNED.findall(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable, so what its owner wrote would be lost: {error}") from error
