"""Golden samples over the wire: what clients get is compared with what evaluation measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marquee.handlers.errors import InputError
from marquee.handlers.golden import GoldenSample, difference, read_golden
from marquee.handlers.spec import ModelSpec, bundle_digest, read_spec
from marquee.serving.archive import open_archive
from marquee.serving.client import Answer, Client


@dataclass
class Replay:
    """The outcome for one model."""

    name: str
    checked: int = 0
    """Answers that were compared: every sample over REST and over gRPC."""
    differences: list[str] = field(default_factory=list)


def replay_over_wire(client: Client, name: str, archive: Path) -> Replay:
    """Sends every golden sample of ``archive`` to the server, over REST and gRPC.

    Args:
        client: the running server.
        name: the model's name there.
        archive: the ``.mar`` that it should be serving.

    Raises:
        OperationError: the archive cannot be read, or the server does not answer.
    """
    with open_archive(archive) as folder:
        spec, digest = read_spec(folder), bundle_digest(folder)
        samples = {variant.name: read_golden(folder, spec, variant) for variant in spec.variants}
    result = Replay(name)
    for protocol, ask in (("REST", client.predict), ("gRPC", client.predict_grpc)):
        for of_variants in zip(*samples.values(), strict=True):
            result.checked += 1
            answer = ask(name, of_variants[0].data)
            if line := _check(dict(zip(samples, of_variants, strict=True)), spec, digest, answer):
                result.differences.append(f"{name} over {protocol}: {line}")
    return result


def served_ranking(answer: Answer) -> dict[str, float] | InputError:
    """The answer to one image: label -> probability, the likeliest first; or the item's error."""
    error = answer.body.get("error")
    if error:
        # `bad_request` stands in for codes of the front end, which are not the handler's.
        return InputError("bad_request", f"{error.get('code')}: {error.get('message')}")
    ranking: Sequence[dict[str, Any]] = answer.body["ranking"]
    return {entry["label"]: entry["probability"] for entry in ranking}


def _check(samples: dict[str, GoldenSample], spec: ModelSpec, digest: str, answer: Answer) -> str | None:
    """Compares an answer with the golden one of the variant that gave it.

    Args:
        samples: variant -> one input with its answer.
        spec: of the archive.
        digest: of the archive's bundle.
        answer: the server's.
    """
    model, first = answer.body.get("model", {}), spec.variants[0]
    sample = samples.get(model.get("variant"), samples[first.name])
    if answer.error is None and model.get("bundle") != digest:
        return f"{sample.file}: the server answers from bundle {model.get('bundle')}, the archive holds {digest}"
    tolerance = next((one.tolerance for one in spec.variants if one.name == model.get("variant")), first.tolerance)
    return difference(sample, spec, served_ranking(answer), tolerance, answer.body.get("distance"))
