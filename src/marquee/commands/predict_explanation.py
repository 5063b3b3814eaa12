"""``marquee predict --explain``: the explanation of one answer, in a file."""

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from marquee.commands.predict_lines import json_line, summary
from marquee.commands.predict_sources import Source
from marquee.handlers.core.quoting import one_line
from marquee.serving.errors import OperationError
from marquee.training.core.files import write_atomic, write_json

if TYPE_CHECKING:
    from marquee.serving.client import Answer

Method = Literal["auto", "gradcam", "integrated_gradients", "occlusion", "shapley"]


def explain_usage_error(explain: Path | None, method: Method, label: str | None) -> str | None:
    """What is wrong with the arguments of an explanation, or None."""
    if explain is None:
        is_asked = method != "auto" or label is not None
        return "--method and --label need --explain OUT.png, or OUT.json for a row" if is_asked else None
    if explain.suffix.lower() not in (".png", ".json"):
        return f"--explain {explain}: expected a file that ends with .png, or with .json for a row"
    return None


def show_explanation(source: Source, ask: Callable[[bytes], "Answer"], out: Path, json: bool) -> int:
    """Asks for the explanation of one answer, writes it, and prints the answer.

    Args:
        source: what to send.
        ask: sends a body.
        out: the file to write.
        json: whether the answer is printed as JSON.

    Returns:
        The exit code.

    Raises:
        OperationError: the file's name is not for explanations of this kind.
    """
    content = source.read()
    answer = ask(content) if isinstance(content, bytes) else content
    body = dict(answer.body)
    if answer.error is None:
        body["explanation"] = {**_write_explanation(dict(body.get("explanation", {})), out), "file": str(out)}
    if json:
        print(json_line({"file": source.name, "status": answer.status, **body}))
    elif answer.error:
        print(one_line(f"{source.name}: {answer.error}"), file=sys.stderr)
    else:
        explanation = body["explanation"]
        note = f" ({explanation['note']})" if "note" in explanation else ""
        what = f" for {explanation['label']}" if "label" in explanation else ""
        print(one_line(f"{source.name}: {summary(answer.body)}"))
        print(one_line(f"{out}: {explanation['method']}{what}{note}"))
        for part in explanation.get("contributions", []):
            print(one_line(f"  {part['contribution']:+12.5g}  {part['column']} = {part['value']}"))
    return 0 if answer.error is None else 1


def _write_explanation(explanation: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes the heat map of an image, or the contributions of a row's columns; returns what there is to show."""
    is_picture = "heatmap" in explanation
    if is_picture != (out.suffix.lower() == ".png"):
        expected = ".png" if is_picture else ".json"
        raise OperationError(f"--explain {out}: this model's explanations need a file that ends with {expected}")
    if is_picture:
        write_atomic(out, base64.b64decode(explanation.pop("heatmap")))
        explanation.pop("map", None)
    else:
        write_json(out, explanation)
    return explanation
