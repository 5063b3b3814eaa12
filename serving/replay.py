"""Sends the golden samples to a running server, and compares the answers that clients get with those of evaluation.

:class:`Samples` is both without a client, for those who send requests in another way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.errors import BundleError, InputError
from marquee.handlers.core.golden import GoldenSample, compare, read_golden
from marquee.handlers.core.output import Output
from marquee.handlers.core.spec import VariantSpec
from marquee.serving.archive import open_archive
from marquee.serving.client import Answer, Client
from marquee.serving.errors import OperationError


@dataclass
class Replay:
    """The outcome for one model."""

    name: str
    checked: int = 0
    """Answers that were compared: every sample over REST and over gRPC."""
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Expected:
    """What one variant must answer."""

    variant: VariantSpec
    output: Output
    samples: list[GoldenSample]


@dataclass(frozen=True)
class Samples:
    """The golden samples of one archive, and what each of its variants must answer to them."""

    digest: str
    """Of the bundle, as it is in every answer."""
    first: str
    """Name of the variant by which an answer that names none is judged."""
    variants: Mapping[str, _Expected]

    @classmethod
    def read(cls, archive: Path) -> "Samples":
        """Those of a ``.mar``.

        Raises:
            OperationError: the archive cannot be read, or its samples cannot be used.
        """
        with open_archive(archive) as folder:
            bundle = Bundle.read(folder)
            try:
                variants = {
                    variant.name: _Expected(
                        variant, bundle.spec.output.create(variant, None), read_golden(bundle, variant)
                    )
                    for variant in bundle.spec.variants
                }
            except BundleError as error:
                raise OperationError(f"{archive}: {str(error).replace(f'{folder}/', '')}") from error
        return cls(bundle.digest, bundle.spec.variants[0].name, variants)

    @property
    def bodies(self) -> list[bytes]:
        """What a client sends for each sample."""
        return [sample.data for sample in self.variants[self.first].samples]

    def difference(self, number: int, answer: Answer) -> str | None:
        """Compares an answer with the golden one of the variant that gave it.

        Args:
            number: of the sample, as in :attr:`bodies`.
            answer: what a client got.

        Returns:
            None when equal, else a line that says what was expected and what came.
        """
        # Golden answers differ between variants; the server reports which one it has loaded.
        expected = self.variants.get(answer.body.get("model", {}).get("variant"), self.variants[self.first])
        sample = expected.samples[number]
        if answer.error is not None:
            # Error codes of the front end are not the handler's: `bad_request` stands in for them.
            return compare(sample, expected.output, InputError("bad_request", answer.error), expected.variant.tolerance)
        if (served := answer.body.get("model", {}).get("bundle")) != self.digest:
            return f"{sample.file}: the server answers from bundle {served}, the archive holds {self.digest}"
        return compare(sample, expected.output, answer.body, expected.variant.tolerance)


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
    samples = Samples.read(archive)
    result = Replay(name if version is None else f"{name}={version}")
    for protocol, ask in (("REST", client.predict), ("gRPC", client.predict_grpc)):
        for number, body in enumerate(samples.bodies):
            result.checked += 1
            if line := samples.difference(number, ask(name, body, version=version)):
                result.differences.append(f"{result.name} over {protocol}: {line}")
    return result
