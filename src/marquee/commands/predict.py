"""Send image files to the running server, or ask for a heat map that explains one answer.

Example: marquee predict photos cat.jpg dog.png --grpc
Example: marquee predict photos cat.jpg --explain reason.png --method occlusion
"""

import base64
import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE
from marquee.training.core.files import write_atomic

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
Method = Literal["auto", "gradcam", "integrated_gradients", "occlusion"]


def predict(
    name: Annotated[str, tyro.conf.Positional],
    files: Files,  # type: ignore[type-arg]
    version: Optional[str] = None,
    grpc: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    explain: Optional[Path] = None,
    method: Method = "auto",
    label: Optional[str] = None,
    state: Path = DEFAULT_STATE,
    config: Path = DEFAULT_CONFIG,
) -> int:
    """Prints one line per file; exits with 1 if any failed, after all others were sent.

    Args:
        name: The model's name on the server.
        files: Image files; a .json file is sent as a JSON body.
        version: The model's version; the default version when omitted.
        grpc: Use gRPC instead of REST.
        json: Print one JSON object per file, with the complete answer.
        explain: PNG file to write: a heat map of the evidence for and against the label. For one file only.
        method: Method of the heat map; auto: Grad-CAM where the model has a last feature map, else occlusion.
        label: The label to explain; the predicted one when omitted.
        state: State folder of marquee serve start.
        config: TorchServe settings with the addresses of a server that marquee serve did not start.
    """
    if not files:
        print(f"error: no files named; example: {hints.command('predict', name, 'cat.jpg')}", file=sys.stderr)
        return 2
    if usage_error := _explain_usage_error(files, explain, method, label):
        print(f"error: {usage_error}", file=sys.stderr)
        return 2
    with interruptible():
        from marquee.serving.server import connect
    client = connect(state, config)
    if explain is not None:
        data = _read(files[0])
        answer = client.explain(name, data, method, label, version, grpc) if isinstance(data, bytes) else data
        return _show_explanation(answer, files[0], explain, json)
    failed = 0
    for file in files:
        answer = _send(client, name, file, version, grpc)
        failed += answer.error is not None
        if json:
            print(jsonlib.dumps({"file": str(file), "status": answer.status, **answer.body}, ensure_ascii=False))
        elif answer.error:
            print(f"{file}: {answer.error}", file=sys.stderr)
        else:
            print(f"{file}: {_summary(answer)}")
    return 1 if failed else 0


def _explain_usage_error(files: list[Path], explain: Path | None, method: Method, label: str | None) -> str | None:
    """What is wrong with the arguments of an explanation, or None."""
    if explain is None:
        return "--method and --label need --explain OUT.png" if method != "auto" or label is not None else None
    if len(files) != 1:
        return f"--explain writes the heat map of one file, and {len(files)} are named; run it once per file"
    if explain.suffix.lower() != ".png":
        return f"--explain {explain}: expected a file that ends with .png"
    return None


def _show_explanation(answer: "Answer", file: Path, out: Path, json: bool) -> int:
    body = dict(answer.body)
    explanation = dict(body.get("explanation", {}))
    if answer.error is None:
        write_atomic(out, base64.b64decode(explanation.pop("heatmap")))
        explanation.pop("map", None)
        body["explanation"] = {**explanation, "file": str(out)}
    if json:
        print(jsonlib.dumps({"file": str(file), "status": answer.status, **body}, ensure_ascii=False))
    elif answer.error:
        print(f"{file}: {answer.error}", file=sys.stderr)
    else:
        note = f" ({explanation['note']})" if "note" in explanation else ""
        print(f"{file}: {_summary(answer)}\n{out}: {explanation['method']} for {explanation['label']}{note}")
    return 0 if answer.error is None else 1


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
    if grpc:
        return client.predict_grpc(name, data, version)
    content_type = "application/json" if file.suffix.lower() == ".json" else "application/octet-stream"
    return client.predict(name, data, content_type, version)


def _summary(answer: "Answer") -> str:
    if "ranking" in answer.body:
        ranking = ", ".join(f"{entry['label']} {entry['probability']:.4f}" for entry in answer.body["ranking"])
        if "labels" in answer.body:
            ranking = f"[{', '.join(answer.body['labels'])}] {ranking}"
        return f"{ranking} (abstained: {answer.body['reason']})" if answer.body.get("abstained") else ranking
    return jsonlib.dumps(answer.body.get("predictions", answer.body), ensure_ascii=False)


def main() -> int:
    """Entry point."""
    return parse_arguments("predict", predict, __doc__)
