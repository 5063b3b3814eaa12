"""How values are formatted: the templates' filters."""

import math
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

_ABSENT = "–"
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_SEPARATED = re.compile(r"[^_/.:-]*[_/.:-]+|[^_/.:-]+")
_LARGEST, _SMALLEST = 1e7, 1e-4
"""Amounts of a size between these are written without an exponent."""
_FIVE_DIGITS = 9999.5
_NOT_BROKEN = 12


def environment(package: str, html: bool) -> jinja2.Environment:
    """The templates of a task's report; those of this package have names that begin with ``shared/``.

    With ``html`` every value is escaped, since names come from untrusted files. Undefined names are errors: a misspelt
    one would silently leave a fact out.

    Args:
        package: the task's, with its templates beside its modules.
        html: whether the template is a page; otherwise it is Markdown, which has its own filter ``plain``.
    """
    templates = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader(package, "."),
                jinja2.PrefixLoader({"shared": jinja2.PackageLoader("marquee.training.report", ".")}),
            ]
        ),
        autoescape=html,  # noqa: S701 - Markdown is escaped by a filter
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for show in (percent, number, amount, whole, duration, setting, plain, breakable, counted):
        templates.filters[show.__name__] = show
    return templates


def percent(share: float | None, digits: int = 1) -> str:
    """0.9637 -> ``96.4 %``, with a non-breaking space."""
    if share is None:
        return _ABSENT
    # What rounds to zero from below must not become -0.
    return f"{round(100 * share, digits) + 0.0:.{digits}f}\u00a0%"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, as in ``0.0123`` or ``1.8e-05``."""
    return _ABSENT if value is None else f"{value:.{digits}g}"


def amount(value: float | None, digits: int = 4) -> str:
    """Significant digits without an exponent, as in ``46,750`` or ``0.0123``; sizes out of the ordinary have one.

    Thousands are separated from five digits on: a column of years would look odd.
    """
    if value is None or math.isnan(value):
        return _ABSENT
    if value == 0 or not math.isfinite(value) or not _SMALLEST <= abs(value) < _LARGEST:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}" if abs(value) >= _FIVE_DIGITS else f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def whole(value: float | None) -> str:
    """1234567 -> ``1,234,567``."""
    return _ABSENT if value is None else f"{value:,.0f}"


def counted(items: int, noun: str) -> str:
    """``1 row``, ``1,234 rows``."""
    return f"{items:,} {noun}{'' if items == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Seconds -> ``7.5 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds is None:
        return _ABSENT
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min"


def setting(value: Any) -> str:
    """A value of the configuration as YAML writes it, without the noise of binary fractions."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(setting, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> str:
    """Untrusted text, escaped to be shown literally in Markdown: one line, no markup, no HTML."""
    line = " ".join(str(value).split())
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", escaped)


def breakable(text: str) -> Markup:
    """Untrusted text for a page, escaped; a line may break after a separator in a long one: ``flipper_length_mm``."""
    if len(text) <= _NOT_BROKEN:
        return escape(text)
    return Markup("<wbr>").join(escape(part) for part in _SEPARATED.findall(text))


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one: ``{"versions": {"torch": "2"}}`` -> ``{"versions: torch": "2"}``."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, dict):
            result |= flat(item, f"{name}: ")
        else:
            result[name] = ", ".join(map(str, item)) or "none" if isinstance(item, list) else item
    return result
