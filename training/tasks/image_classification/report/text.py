"""How values are formatted: the filters of both templates."""

import re
from typing import Any

import jinja2

_ABSENT = "–"
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")


def environment(html: bool) -> jinja2.Environment:
    """The templates of this package; with ``html`` every value is escaped, since names come from untrusted files.

    Undefined names are errors: a misspelt one would silently leave a fact out.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("marquee.training.tasks.image_classification.report", "."),
        autoescape=html,  # noqa: S701 - the other template is Markdown, which has its own filter `plain`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters.update(
        percent=percent, number=number, whole=whole, duration=duration, setting=setting, plain=plain
    )
    return templates


def percent(share: float | None, digits: int = 1) -> str:
    """0.9637 -> ``96.4 %``, with a non-breaking space."""
    return _ABSENT if share is None else f"{100 * share:.{digits}f}\u00a0%"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, as in ``0.0123`` or ``1.8e-05``."""
    return _ABSENT if value is None else f"{value:.{digits}g}"


def whole(value: float | None) -> str:
    """1234567 -> ``1,234,567``."""
    return _ABSENT if value is None else f"{value:,.0f}"


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
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> str:
    """Untrusted text, escaped to be shown literally in Markdown: one line, no markup, no HTML."""
    line = " ".join(str(value).split())
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", escaped)
