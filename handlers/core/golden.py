"""Golden samples: raw inputs with the answers that training's evaluation gave for them.

They travel in the bundle and are replayed wherever it is loaded: an endpoint counts as ready only when it gives the
same answers. Every variant has its own, for a quantized one does not answer as the original does: the file
``VariantSpec.expected`` holds ``{"seal": ..., "answers": [{"file", ...}, ...]}``, where an answer is what the output's
predictions store of themselves, and the seal what decided them (:mod:`.sealed`). In bundles of earlier versions it is
the list of answers alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .bundle import Bundle
from .errors import BundleError, InputError
from .output import Output
from .predictor import Predictor
from .sealed import check_seal
from .spec import VariantSpec


@dataclass(frozen=True)
class GoldenSample:
    """One raw input and the answer that it must get."""

    file: str
    """Path inside the bundle."""
    data: bytes
    """The file's content, as a client would send it."""
    expected: Mapping[str, Any]
    """Evaluation's answer (see :meth:`marquee.handlers.core.output.Prediction.golden`), and the truth."""


def read_golden(bundle: Bundle, variant: VariantSpec) -> list[GoldenSample]:
    """The golden samples of a bundle with the answers of one variant, at least one.

    Raises:
        BundleError: there are none, the file of answers is damaged, it and the spec name different files, or what
            decides an answer was changed in the spec since.
    """
    path = bundle.folder / variant.expected
    output = bundle.spec.output.create(variant, None)
    try:
        document = json.loads(path.read_text("utf-8"))
        if isinstance(document, dict):
            check_seal(document["seal"], bundle, variant)
            document = document["answers"]
        entries = [dict(entry) for entry in document]
        files = [str(entry.pop("file")) for entry in entries]
        samples = [
            GoldenSample(file, (bundle.folder / file).read_bytes(), entry)
            for file, entry in zip(files, entries, strict=True)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: golden samples are not readable: {error!r}") from error
    if not samples:
        raise BundleError(f"{path}: no golden samples; a model that cannot be checked is not served")
    answers = {other.expected for other in bundle.spec.variants}
    if {*answers, *files} != set(bundle.spec.golden.files):
        raise BundleError(f"{path}: does not name the golden files that spec.json names")
    for sample in samples:
        try:
            output.check_golden(sample.expected)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path}: {sample.file} {_reason(error)}") from error
    return samples


def _reason(error: Exception) -> str:
    return f"has no {error}" if isinstance(error, KeyError) else str(error)


def compare(
    sample: GoldenSample, output: Output, answer: Mapping[str, Any] | InputError, tolerance: float
) -> str | None:
    """Compares one answer with a golden one.

    Args:
        sample: what must come out.
        output: of the model.
        answer: what a client got, or :meth:`~marquee.handlers.core.output.Prediction.golden`; or the item's error.
        tolerance: of the variant that gave it.

    Returns:
        None when equal, else a line that says what was expected and what came.
    """
    if isinstance(answer, InputError):
        return f"{sample.file}: expected an answer, got the error {answer.code}: {answer.message}"
    line = output.difference(sample.expected, answer, tolerance)
    return None if line is None else f"{sample.file}: {line}"


def replay(predictor: Predictor) -> list[str]:
    """Asks ``predictor`` for every golden sample of its own bundle; returns the differences, none when all is well."""
    tolerance = predictor.variant.tolerance
    samples = read_golden(predictor.bundle, predictor.variant)
    answers = predictor.predict([sample.data for sample in samples])
    lines = [
        compare(sample, predictor.output, answer if isinstance(answer, InputError) else answer.golden(), tolerance)
        for sample, answer in zip(samples, answers, strict=True)
    ]
    return [line for line in lines if line is not None]


def verify_golden(predictor: Predictor) -> None:
    """Replays the golden samples.

    Raises:
        BundleError: an answer differs; the message shows the first.
    """
    if differences := replay(predictor):
        raise BundleError(f"{len(differences)} golden answers differ from evaluation's; first: {differences[0]}")
