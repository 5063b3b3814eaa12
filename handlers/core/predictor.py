"""Predictor: a bundle's engine between its input and its output, without any server. Usable from a notebook.

>>> from marquee.handlers.core.predictor import Predictor
>>> predictor = Predictor.load("runs/digits/bundle")
>>> predictor.predict(["three.png"])[0].label
'3'
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .arrays import Arrays, concatenate, rows, take
from .batch import Batch
from .bundle import Bundle
from .choice import Choice, rank_variants
from .engines import Engine, load_engine
from .errors import BundleError
from .host import this_host
from .input import attempt
from .payload import parse
from .spec import ModelSpec, VariantSpec

logger = logging.getLogger(__name__)

WARM_UP_SECONDS = 10.0
"""After so long no other batch size is tried before a model counts as ready: a large network's sizes are not worth
minutes of starting."""


class Predictor:
    """Answers for raw inputs, or for the arrays that an engine takes.

    Args:
        bundle: the bundle.
        variant: one of its variants.
        engine: that variant, loaded.
        reason: why this variant and no other.
        threads: items of one batch that are decoded at once.
    """

    def __init__(
        self, bundle: Bundle, variant: VariantSpec, engine: Engine, reason: str = "", threads: int = 1
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self.engine = engine
        self.reason = reason
        self.input = bundle.spec.input.create(threads)
        self.output: Any = bundle.spec.output.create(variant, bundle.folder)
        """See :class:`marquee.handlers.core.output.Output`; each kind offers more of its own."""

    @property
    def spec(self) -> ModelSpec:
        """Of the bundle."""
        return self.bundle.spec

    @property
    def digest(self) -> str:
        """``sha256:...`` of the bundle, which every served answer contains."""
        return self.bundle.digest

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        variant: str | None = None,
        verify: Callable[["Predictor"], None] | None = None,
        threads: int = 1,
    ) -> "Predictor":
        """Loads the variant of a bundle that suits this machine best, after checking the files' digests.

        A variant that cannot be used (a damaged file, a library that is absent, kernels of another precision) is
        passed over with a warning; the next best is tried.

        Args:
            folder: a bundle, such as ``runs/NAME/bundle``.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            variant: the name of the only variant to try.
            verify: raises BundleError to refuse a loaded variant (see
                :func:`marquee.handlers.core.golden.verify_golden`).
            threads: items of one batch that are decoded at once.

        Raises:
            BundleError: the bundle is incomplete or altered, or no variant can be used.
        """
        bundle = Bundle.read(Path(folder))
        bundle.verify(bundle.spec.golden.files)
        refused: list[tuple[str, BundleError]] = []
        for choice in rank_variants(bundle.spec, this_host(device), device, variant):
            try:
                predictor = cls._load(bundle, choice, device, [name for name, _ in refused], threads)
                if verify is not None:
                    verify(predictor)
            except BundleError as error:
                refused.append((choice.variant.name, error))
                logger.warning("variant %s cannot be used: %s", choice.variant.name, error)
            else:
                return predictor
        if len(refused) == 1:
            raise refused[0][1]
        raise BundleError("; ".join(f"variant {name!r}: {error}" for name, error in refused))

    @classmethod
    def _load(cls, bundle: Bundle, choice: Choice, device: str, refused: list[str], threads: int) -> "Predictor":
        bundle.verify(choice.variant.files)
        engine = load_engine(bundle, choice.variant, device)
        reason = f"{choice.reason}; {', '.join(refused)} could not be used" if refused else choice.reason
        return cls(bundle, choice.variant, engine, reason, threads)

    def predict(self, data: Sequence[bytes | str | Path]) -> list[Any]:
        """Answers for raw inputs, in their order; a bad one yields its error and leaves the others alone.

        Args:
            data: the contents of files, or their paths.

        Returns:
            For each the :class:`~marquee.handlers.core.output.Prediction` of the bundle's output, or an InputError.

        Raises:
            OSError: a file cannot be read.
        """
        contents = [Path(item).read_bytes() if isinstance(item, (str, Path)) else item for item in data]
        items = [attempt(self.input.opener().file, content) for content in contents]
        return self.predict_batch(self.input.collate(items))

    def answer(self, body: Any) -> list[Any]:
        """Answers for the body of one request, item by item, as a server would read it.

        Args:
            body: bytes; or a JSON document, such as ``{"instances": [...]}`` or, for rows of a table,
                ``[{"carat": 0.3, "cut": "Ideal"}, ...]``.

        Returns:
            As :meth:`predict`.
        """
        return self.predict_batch(self.input.collate(parse({"body": body}, self.input).items))

    def predict_batch(self, batch: Batch) -> list[Any]:
        """Answers for what ``input.collate`` gave, in the order of its items, with the errors in their places."""
        return batch.with_errors(self.predict_arrays(batch.inputs) if len(batch) else [])

    def predict_arrays(self, inputs: Arrays) -> list[Any]:
        """Answers for the arrays that an engine takes, at least one row."""
        predictions: list[Any] = self.output.predictions(self.outputs(inputs))
        return predictions

    def outputs(self, inputs: Arrays) -> Arrays:
        """What an answer starts from (see :meth:`marquee.handlers.core.output.Output.read`).

        Args:
            inputs: as :meth:`~marquee.handlers.core.input.InputSpec.example` has them, at least one row.

        Raises:
            ValueError: the arrays are not what the bundle's input gives.
            BundleError: the engine returned arrays of another shape, or a NaN.
        """
        self.input.check(inputs)
        result: Arrays = self.output.read(self._run(inputs))
        return result

    def _run(self, inputs: Arrays) -> Arrays:
        """What the engine gives, each array with a row for each item."""
        items = rows(inputs)
        chunk = self.spec.input.chunk
        parts = [self.engine(take(inputs, slice(start, start + chunk))) for start in range(0, items, chunk)]
        try:
            arrays = concatenate([{name: part[name] for name in self.variant.outputs} for part in parts])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            names = ", ".join(self.variant.outputs)
            raise BundleError(f"the engine did not give arrays named {names}: {error!r}") from error
        for values in arrays.values():
            if values.ndim < 1 or len(values) != items:
                raise BundleError(f"the engine gave {values.shape} for {items} items")
        return arrays

    def warm_up(self, largest: int) -> list[int]:
        """Runs the engine with every batch size up to ``largest``, so that no client waits for what a first one costs.

        Engines choose kernels and memory for a size when they first meet it, which makes that call longer
        (benchmarks/serving); later ones cost what a graph for this one size would, so batches are not padded to a few
        sizes. After :data:`WARM_UP_SECONDS` the sizes that are left are not tried.

        Args:
            largest: the largest batch; more than ``spec.input.chunk`` never go through the engine at once.

        Returns:
            The sizes that were run.

        Raises:
            BundleError: the engine fails with a size.
        """
        largest = max(1, min(largest, self.spec.input.chunk))
        sizes: list[int] = []
        until = time.monotonic() + WARM_UP_SECONDS
        # What most requests will meet, one item and full batches, comes first.
        for size in dict.fromkeys([1, largest, *range(2, largest)]):
            if sizes and time.monotonic() > until:
                break
            try:
                self.outputs(self.bundle.spec.input.example(size))
            except Exception as error:  # an engine's library raises what it likes
                line = " ".join(str(error).split())[:300]
                raise BundleError(f"the engine cannot run a batch of {size}: {line}") from error
            sizes.append(size)
        return sizes
