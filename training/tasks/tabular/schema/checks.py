"""Columns that a model learns nothing from: identifiers, constants, and texts that are no categories."""

import re

import numpy as np

from marquee.training.tasks.tabular.schema.kinds import ColumnValues, tolerated
from marquee.training.tasks.tabular.schema.notes import option
from marquee.training.tasks.tabular.table_config import TableConfig

FEWEST_ROWS = 10
"""Rows below which nothing is taken for an identifier: a few different values are no evidence."""
_IDENTIFIER = re.compile(
    r"(?i:(?:.*[\s_.-])?(?:id|uuid|guid)|index|idx|key|row|row[\s_.-]?(?:id|number|nr|no|names?))|.*[a-z]I[dD]"
)
"""Names of identifiers: ``id``, ``customer_id``, ``orderId``."""


def why_useless(values: ColumnValues, rows: np.ndarray) -> str | None:
    """Why a column tells rows nothing that they could differ by; None where it does.

    A category that is missing in some rows and the same in all others does: a missing value is a category of its own.

    Args:
        values: of the column.
        rows: bool (N,), the rows that are looked at.
    """
    present = values.present & rows
    if not present.any():
        return "has no values that can be read" if (values.bad & rows).any() else "has no values"
    known = values.values[present]
    if (known != known[0]).any() or (values.kind == "category" and (values.missing & rows).any()):
        return None
    return "has the same value in every row" + (" that has one" if (values.missing & rows).any() else "")


def why_identifier(values: ColumnValues, rows: np.ndarray, has_no_name: bool) -> str | None:
    """Why a column names rows rather than describing them; None where it does not.

    Numbers with fractions and dates may all be different, and are no identifiers. Nor is a column of integers that are
    sorted but far apart: the table may be sorted by what it measures.

    Args:
        values: of the column.
        rows: bool (N,), the rows that are looked at.
        has_no_name: whether its header is empty, as that of row numbers is which pandas and R write.
    """
    known = values.values[values.present & rows]
    if len(known) < FEWEST_ROWS or values.kind in ("boolean", "date"):
        return None
    all_differ = len(np.unique(known)) == len(known)
    if values.kind == "category":
        return "each of its texts is there once, so they name rows" if all_differ else None
    if (known != np.floor(known)).any():
        return None
    if has_no_name:
        return "looks like row numbers: integers without a name"
    if all_differ and _IDENTIFIER.fullmatch(values.name):
        return "looks like an identifier, by its name and since each of its integers is there once"
    return "looks like row numbers: integers in order, each there once" if _counts(known) else None


def names_groups(values: ColumnValues, rows: np.ndarray) -> bool:
    """Whether a column, by its name, identifies something that several rows are about, such as a customer."""
    if values.kind not in ("number", "category") or not _IDENTIFIER.fullmatch(values.name):
        return False
    known = values.values[values.present & rows]
    return len(np.unique(known)) * 2 <= len(known)


def is_mostly_unique(values: ColumnValues, rows: np.ndarray) -> bool:
    """Whether a category is there so rarely that little can be learnt of it."""
    known = values.values[values.present & rows]
    return values.kind == "category" and len(known) >= FEWEST_ROWS and len(np.unique(known)) * 2 > len(known)


def why_no_category(values: ColumnValues, rows: np.ndarray, config: TableConfig) -> str | None:
    """Why a column of texts cannot be used as a category; None where it can."""
    if values.kind != "category":
        return None
    bad, total = int((values.bad & rows).sum()), int((~values.missing & rows).sum())
    if bad > tolerated(total):
        return f"{bad:,} of its {total:,} cells are neither a text nor a number nor a date"
    distinct = len(np.unique(values.values[values.present & rows]))
    if distinct <= config.max_categories:
        return None
    return (
        f"has {distinct:,} distinct texts, more than {option('max-categories')} ({config.max_categories}), "
        "which are too many for a category"
    )


def _counts(numbers: np.ndarray) -> bool:
    """Whether integers go up, or down, one by one or with few gaps."""
    with np.errstate(over="ignore"):
        steps = np.diff(numbers)
        in_order = bool((steps > 0).all() or (steps < 0).all())
        return in_order and bool(abs(numbers[-1] - numbers[0]) < 2 * len(numbers))
