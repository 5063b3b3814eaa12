"""The OpenAPI document as a page for people: without scripts, and without anything from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.2rem;border-bottom:1px solid #8886}
summary{cursor:pointer;padding:.35rem 0}
summary b{display:inline-block;min-width:4.2rem;font-size:.8rem}
details{border-bottom:1px solid #8883}
details>div{padding:.2rem 0 1rem 1rem}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#8881;padding:.6rem;overflow-x:auto}
table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
small{opacity:.75}
"""


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


POLICY = _policy()
"""The page's Content-Security-Policy: nothing but its own style."""


def render(document: Mapping[str, Any]) -> str:
    """A page with every operation, by protocol.

    Args:
        document: of :func:`marquee.gateway.doors.openapi.document`.
    """
    info = document["info"]
    sections = []
    for tag in document["tags"]:
        entries = [
            _operation(path, method, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation["tags"]
        ]
        sections.append(f"<h2>{escape(tag['name'])}</h2>{''.join(entries)}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        f"<p>{_text(info['description'])}</p>"
        f'<p>For programs: <a href="/openapi.json">/openapi.json</a></p>{"".join(sections)}</body></html>'
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [f"<p>{_text(operation.get('description', 'No key is needed.'))}</p>"]
    if operation["parameters"]:
        parts.append(_table(operation["parameters"]))
    if "requestBody" in operation:
        parts.append(f"<h4>Body</h4>{_bodies(operation['requestBody']['content'])}")
    parts.append("<h4>Answers</h4>")
    for status, response in operation["responses"].items():
        parts.append(
            f"<details><summary><code>{escape(status)}</code> {escape(response['description'])}</summary>"
            f"<div>{_bodies(response['content'])}</div></details>"
        )
    return (
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code> "
        f"<small>{escape(operation['summary'])}</small></summary><div>{''.join(parts)}</div></details>"
    )


def _table(parameters: list[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(entry['name'])}</code></td><td>{escape(entry['in'])}</td>"
        f"<td>{escape(entry.get('description', ''))}</td></tr>"
        for entry in parameters
    )
    return f"<h4>Parameters</h4><table>{rows}</table>"


def _bodies(content: Mapping[str, Any]) -> str:
    return "".join(
        f"<p><code>{escape(media_type)}</code></p><pre>{escape(json.dumps(entry['schema'], indent=1))}</pre>"
        for media_type, entry in content.items()
    )


def _text(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    parts = [escape(part) for part in text.split("`")]
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
