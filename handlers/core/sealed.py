"""The seal of golden answers: what decided them, beside the bundle's files, kept with them.

Golden answers show that the files still compute what evaluation measured. They are few, and say little of a limit on
requests or a threshold that none of them is near: those lie in ``spec.json``, where an editor reaches them. So the file
of a variant's answers repeats that part of ``spec.json``, and a bundle whose two copies differ is not served. What is
measured or ranked later, the provenance and the samples decide no answer, and are free to change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .bundle import Bundle
from .errors import BundleError
from .input import InputSpec
from .output import CalibrationSpec, OutputSpec
from .schema import from_dict, to_dict
from .spec import SPEC_FILE, ModelSpec, Precision, VariantSpec


@dataclass(frozen=True, kw_only=True)
class SealedVariant:
    """Of a :class:`~marquee.handlers.core.spec.VariantSpec` what decides its answers, and whether they count as equal.

    Not its files, which have digests and are proven by the answers themselves.
    """

    engine: str
    precision: Precision
    outputs: tuple[str, ...]
    tolerance: float
    device: Literal["any", "cpu", "cuda"]
    isa: tuple[str, ...]
    calibration: CalibrationSpec | None


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What decides the answers of one variant; fields that were added since have their defaults."""

    task: str
    input: InputSpec
    output: OutputSpec
    variant: SealedVariant


def seal(spec: ModelSpec, variant: VariantSpec) -> dict[str, Any]:
    """What is kept with the golden answers of ``variant``, as JSON."""
    kept = SealedVariant(
        engine=variant.engine,
        precision=variant.precision,
        outputs=variant.outputs,
        tolerance=variant.tolerance,
        device=variant.device,
        isa=variant.isa,
        calibration=variant.calibration,
    )
    document: dict[str, Any] = to_dict(Sealed(task=spec.task, input=spec.input, output=spec.output, variant=kept))
    return document


def check_seal(document: Any, bundle: Bundle, variant: VariantSpec) -> None:
    """Compares the seal of a variant's golden answers with ``spec.json`` as it is now.

    Args:
        document: what :func:`seal` gave when the answers were written.
        bundle: whose spec it is.
        variant: whose answers they are.

    Raises:
        SchemaError: the seal itself is damaged.
        BundleError: they differ; the message names the first field that does, with both values.
    """
    if changed := next(_differences(to_dict(from_dict(Sealed, document, "seal")), seal(bundle.spec, variant)), None):
        field, then, now = changed
        name = field.replace("variant.", f"variant {variant.name!r}: ", 1) if field.startswith("variant.") else field
        raise BundleError(
            f"{bundle.folder / SPEC_FILE}: was changed after its golden answers were written: {name} was "
            f"{_short(then)}, is {_short(now)}; change it back, or train or import the model again with the setting "
            "that you want"
        )


def _differences(then: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value then, value now) of every value that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in [*then, *(name for name in now if name not in then)]:
            yield from _differences(then.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for place, pair in enumerate(zip(then, now, strict=True)):
            yield from _differences(*pair, f"{path}[{place}]")
    elif then != now or isinstance(then, bool) != isinstance(now, bool):
        yield path, then, now


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
