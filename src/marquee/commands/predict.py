"""Send images or rows of a table to the running server, or ask for an explanation of one answer.

Example: marquee predict photos cat.jpg dog.png --grpc
Example: marquee predict houses new.csv --out prices.csv
Example: marquee predict photos cat.jpg --explain reason.png --method occlusion
Example: marquee predict houses one.json --explain reason.json
"""

import base64
import json as jsonlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.commands.predict_table import Limits, predict_table
from marquee.commands.table_file import SUFFIXES, is_table
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE
from marquee.serving.errors import OperationError
from marquee.training.core.files import write_atomic, write_json

if TYPE_CHECKING:
    from marquee.serving.client import Answer, Client

Files = Annotated[
    # Not list[Path]: tyro would check its value with a library that takes 0.1 seconds to import.
    list,
    tyro.conf.Positional,
    tyro.constructors.PrimitiveConstructorSpec[list[Path]](
        nargs="*",
        metavar="FILE",
        instance_from_str=lambda texts: [Path(text) for text in texts],
        is_instance=lambda value: isinstance(value, list),
        str_from_instance=lambda files: [str(file) for file in files],
    ),
]
Method = Literal["auto", "gradcam", "integrated_gradients", "occlusion", "shapley"]


def predict(
    name: Annotated[str, tyro.conf.Positional],
    files: Files,  # type: ignore[type-arg]
    version: Optional[str] = None,
    grpc: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    out: Optional[Path] = None,
    explain: Optional[Path] = None,
    method: Method = "auto",
    label: Optional[str] = None,
    state: Path = DEFAULT_STATE,
    config: Path = DEFAULT_CONFIG,
) -> int:
    """Prints one line per file; exits with 1 if any failed, after all others were sent.

    Args:
        name: The model's name on the server.
        files: Image files, or rows of a table (.csv, .tsv, .parquet, .jsonl), which are answered as CSV; a .json file
            is sent as a JSON body.
        version: The model's version; the default version when omitted.
        grpc: Use gRPC instead of REST.
        json: Print one JSON object per file, with the complete answer.
        out: File for the CSV of answers to one file of rows; printed when omitted.
        explain: File to write: of an image a .png, a heat map of the evidence for and against the label; of a row a
            .json, the contribution of each column. For one file only.
        method: Method of the explanation; auto: for images Grad-CAM where the model has a last feature map, else
            occlusion; for rows Shapley values.
        label: The label to explain; the predicted one when omitted.
        state: State folder of marquee serve start.
        config: TorchServe settings with the addresses of a server that marquee serve did not start.
    """
    if not files:
        print(f"error: no files named; example: {hints.command('predict', name, 'cat.jpg')}", file=sys.stderr)
        return 2
    if usage_error := _explain_usage_error(files, explain, method, label) or _out_usage_error(
        files, out, json, explain
    ):
        print(f"error: {usage_error}", file=sys.stderr)
        return 2
    with interruptible():
        from marquee.serving.server import connect
    client = connect(state, config)
    if explain is not None:
        data = _read(files[0])
        answer = client.explain(name, data, method, label, version, grpc) if isinstance(data, bytes) else data
        return _show_explanation(answer, files[0], explain, json)
    failed, limits = 0, None
    for file in files:
        if is_table(file) and not json:
            limits = limits or _limits(client, name, version)
            failed += predict_table(file, partial(_ask, client, name, version=version, grpc=grpc), out, limits)
            continue
        answer = _send(client, name, file, version, grpc)
        failed += answer.error is not None
        if json:
            print(jsonlib.dumps({"file": str(file), "status": answer.status, **answer.body}, ensure_ascii=False))
        elif answer.error:
            print(f"{file}: {answer.error}", file=sys.stderr)
        else:
            print(f"{file}: {_summary(answer)}")
    return 1 if failed else 0


def _limits(client: "Client", name: str, version: str | None) -> Limits:
    """How much a request may hold; the usual where the management API does not tell, such as for want of a token."""
    try:
        described = client.describe(name, version, customized=True)
        return Limits.of(described[0].get("customizedMetadata"))
    except (OperationError, ValueError, TypeError, LookupError, AttributeError):
        return Limits()


def _explain_usage_error(files: list[Path], explain: Path | None, method: Method, label: str | None) -> str | None:
    """What is wrong with the arguments of an explanation, or None."""
    if explain is None:
        return (
            "--method and --label need --explain OUT.png, or OUT.json for a row"
            if method != "auto" or label is not None
            else None
        )
    if len(files) != 1:
        return f"--explain explains the answer to one file, and {len(files)} are named; run it once per file"
    if explain.suffix.lower() not in (".png", ".json"):
        return f"--explain {explain}: expected a file that ends with .png, or with .json for a row"
    return None


def _out_usage_error(files: list[Path], out: Path | None, json: bool, explain: Path | None) -> str | None:
    """What is wrong with the arguments of a file of answers, or None."""
    if out is None:
        return None
    if json or explain is not None:
        return f"--out {out}: the answers are written as CSV; leave out {'--json' if json else '--explain'}"
    if len(files) != 1 or not is_table(files[0]):
        return f"--out {out}: for one file of rows ({', '.join(SUFFIXES)})"
    return None


def _show_explanation(answer: "Answer", file: Path, out: Path, json: bool) -> int:
    body = dict(answer.body)
    if answer.error is None:
        body["explanation"] = {**_write_explanation(dict(body.get("explanation", {})), out), "file": str(out)}
    if json:
        print(jsonlib.dumps({"file": str(file), "status": answer.status, **body}, ensure_ascii=False))
    elif answer.error:
        print(f"{file}: {answer.error}", file=sys.stderr)
    else:
        explanation = body["explanation"]
        note = f" ({explanation['note']})" if "note" in explanation else ""
        what = f" for {explanation['label']}" if "label" in explanation else ""
        print(f"{file}: {_summary(answer)}\n{out}: {explanation['method']}{what}{note}")
        for part in explanation.get("contributions", []):
            value = part["value"] if isinstance(part["value"], str) else jsonlib.dumps(part["value"])
            print(f"  {part['contribution']:+12.5g}  {part['column']} = {value}")
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


def _read(file: Path) -> "bytes | Answer":
    try:
        return file.read_bytes()
    except OSError as error:
        from marquee.serving.client import Answer

        return Answer(0, {"error": {"code": "unreadable", "message": error.strerror or str(error)}})


def _send(client: "Client", name: str, file: Path, version: str | None, grpc: bool) -> "Answer":
    data = _read(file)
    if not isinstance(data, bytes):
        return data
    content_type = "application/json" if file.suffix.lower() == ".json" else "application/octet-stream"
    return _ask(client, name, data, version, grpc, content_type)


def _ask(
    client: "Client",
    name: str,
    data: bytes,
    version: str | None,
    grpc: bool,
    content_type: str = "application/octet-stream",
) -> "Answer":
    if grpc:
        return client.predict_grpc(name, data, version)
    return client.predict(name, data, content_type, version)


def _summary(answer: "Answer") -> str:
    if "ranking" in answer.body:
        ranking = ", ".join(f"{entry['label']} {entry['probability']:.4f}" for entry in answer.body["ranking"])
        if "labels" in answer.body:
            ranking = f"[{', '.join(answer.body['labels'])}] {ranking}"
        return f"{ranking} (abstained: {answer.body['reason']})" if answer.body.get("abstained") else ranking
    if "value" in answer.body:
        interval = answer.body.get("interval")
        within = f" ({interval['low']:.6g} to {interval['high']:.6g})" if interval else ""
        unfamiliar = answer.body.get("unfamiliar")
        return f"{answer.body['value']:.6g}{within}{f'; unfamiliar: {chr(44).join(unfamiliar)}' if unfamiliar else ''}"
    return jsonlib.dumps(answer.body.get("predictions", answer.body), ensure_ascii=False)


def main() -> int:
    """Entry point."""
    return parse_arguments("predict", predict, __doc__)
