"""Sends the golden samples to a running server, and compares the answers that clients get with those of evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.golden import GoldenSample, compare, read_golden
from marquee.handlers.core.output import Output
from marquee.handlers.core.spec import VariantSpec
from marquee.serving.archive import open_archive
from marquee.serving.client import Answer, Client


@dataclass
class Replay:
    """The outcome for one model."""

    name: str
    checked: int = 0
    """Answers that were compared: every sample over REST and over gRPC."""
    differences: list[str] = field(default_factory=list)


def replay_over_wire(client: Client, name: str, archive: Path, version: str | None = None) -> Replay:
    """Sends every golden sample of ``archive`` to the server, over REST and gRPC.

    Args:
        client: the running server.
        name: the model's name on the server.
        archive: the ``.mar`` that it should be serving.
        version: the model's version on the server; None: the default version.

    Raises:
        OperationError: the archive cannot be read, or the server does not answer.
    """
    with open_archive(archive) as folder:
        bundle = Bundle.read(folder)
        variants = {
            variant.name: _Expected(variant, bundle.spec.output.create(variant, None), read_golden(bundle, variant))
            for variant in bundle.spec.variants
        }
    first = bundle.spec.variants[0].name
    result = Replay(name if version is None else f"{name}={version}")
    for protocol, ask in (("REST", client.predict), ("gRPC", client.predict_grpc)):
        for number, sample in enumerate(variants[first].samples):
            result.checked += 1
            answer = ask(name, sample.data, version=version)
            # Golden answers differ between variants; the server reports which one it has loaded.
            expected = variants.get(answer.body.get("model", {}).get("variant"), variants[first])
            if line := _check(expected, number, bundle.digest, answer):
                result.differences.append(f"{result.name} over {protocol}: {line}")
    return result


@dataclass(frozen=True)
class _Expected:
    """What one variant must answer."""

    variant: VariantSpec
    output: Output
    samples: list[GoldenSample]


def _check(expected: _Expected, number: int, digest: str, answer: Answer) -> str | None:
    """Compares an answer with the golden one of the variant that gave it."""
    sample = expected.samples[number]
    if answer.error is not None:
        # Error codes of the front end are not the handler's: `bad_request` stands in for them.
        return compare(sample, expected.output, InputError("bad_request", answer.error), expected.variant.tolerance)
    if (served := answer.body.get("model", {}).get("bundle")) != digest:
        return f"{sample.file}: the server answers from bundle {served}, the archive holds {digest}"
    return compare(sample, expected.output, answer.body, expected.variant.tolerance)
