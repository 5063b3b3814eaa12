"""Ask the running server about image files.

Example: python scripts/predict.py photos cat.jpg dog.png --grpc
"""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import tyro
from _cli import run

from serving import server as servers
from serving.client import Answer, Client


def predict(
    name: Annotated[str, tyro.conf.Positional],
    files: Annotated[list[Path], tyro.conf.Positional],
    version: str | None = None,
    grpc: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    state: Path = servers.DEFAULT_STATE,
    config: Path = servers.DEFAULT_CONFIG,
) -> int:
    """Prints one line a file; exit 1 when any of them failed, after all others were asked.

    Args:
        name: The model's name on the server.
        files: Image files; a .json file is sent as a JSON body.
        version: The model's version; the server's default when left out.
        grpc: Ask over gRPC instead of REST.
        json: Print one JSON object a file, with the whole answer.
        state: Folder given to serve.py start.
        config: TorchServe settings that tell the addresses when serve.py did not start the server.
    """
    if not files:
        print("error: no files named; example: python scripts/predict.py photos cat.jpg", file=sys.stderr)
        return 2
    client = servers.connect(state, config)
    failed = 0
    for file in files:
        answer = _ask(client, name, file, version, grpc)
        failed += answer.error is not None
        if json:
            print(jsonlib.dumps({"file": str(file), "status": answer.status, **answer.body}, ensure_ascii=False))
        elif answer.error:
            print(f"{file}: {answer.error}", file=sys.stderr)
        else:
            print(f"{file}: {_summary(answer)}")
    return 1 if failed else 0


def _ask(client: Client, name: str, file: Path, version: str | None, grpc: bool) -> Answer:
    try:
        data = file.read_bytes()
    except OSError as error:
        return Answer(0, {"error": {"code": "unreadable", "message": error.strerror or str(error)}})
    if grpc:
        return client.predict_grpc(name, data, version)
    content_type = "application/json" if file.suffix.lower() == ".json" else "application/octet-stream"
    return client.predict(name, data, content_type, version)


def _summary(answer: Answer) -> str:
    if "ranking" in answer.body:
        ranking = ", ".join(f"{entry['label']} {entry['probability']:.4f}" for entry in answer.body["ranking"])
        if "labels" in answer.body:
            ranking = f"[{', '.join(answer.body['labels'])}] {ranking}"
        return f"{ranking} (abstained: {answer.body['reason']})" if answer.body.get("abstained") else ranking
    return jsonlib.dumps(answer.body.get("predictions", answer.body), ensure_ascii=False)


def main() -> int:
    """Entry point."""
    code: int = tyro.cli(predict, description=__doc__)
    return code


if __name__ == "__main__":
    run(main)
