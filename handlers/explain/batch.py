"""Explanations within a batch of requests: never at the cost of the predictions beside them."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from ..core.arrays import Arrays
from ..core.errors import InputError
from ..core.output import Prediction
from ..core.payload import add_to_answer, encode_error, find_body
from ..core.predictor import Predictor
from ..core.worker_config import WorkerConfig
from . import explainer_for
from .early import answer_early, can_carry
from .request import ONE_INPUT, Settings, may_be_asked, parse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """An explanation that is still to be made: its prediction succeeded."""

    request: Settings
    inputs: Arrays
    """Of the one item."""
    prediction: Prediction | InputError


class Explanations:
    """What the handler asks about explanations.

    Args:
        predictor: the served model.
        device: where a program goes when a gradient is needed.
        config: whether, and for how long (``explain``, ``explain_seconds``).
        count: told what came of each explanation: ``ok`` or an error's code.
    """

    def __init__(
        self,
        predictor: Predictor,
        device: str,
        config: WorkerConfig,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._predictor = predictor
        self._explainer = explainer_for(predictor, device)
        self._config = config
        self._count = count

    def parse(self, request: dict[str, Any], header: str | None) -> tuple[Any, dict[str, Any]]:
        """Finds out whether a request wants an explanation.

        Args:
            request: as TorchServe hands it over.
            header: ``explain`` among its headers, by which the front end marks what came to ``/explanations``.

        Returns:
            What it asks, the explainer's ``settings``, or None; and the request without these settings, so that it is
            a prediction's.

        Raises:
            InputError: a setting is wrong, or explanations cannot be had.
        """
        is_asked = header == "True"
        if not is_asked and not may_be_asked(request):
            return None, request
        explainer = self._explainer
        known = () if explainer is None else (explainer.settings, explainer.own_names, explainer.max_bytes)
        parsed = parse(request, is_asked, *known)
        if parsed is None:
            return None, request
        if not self._config.explain:
            raise InputError("not_supported", "explanations are switched off for this model (explain: false)")
        if explainer is None:
            raise InputError("not_supported", "the answers of this kind of model cannot be explained")
        explainer.check(parsed[0])
        if explainer.settings.may_be_a_list and explainer.count(find_body(parsed[1])) != 1:
            raise InputError("bad_request", ONE_INPUT)
        return parsed

    def complete(self, pending: Mapping[int, Pending], bodies: list[bytes], context: Any) -> list[bytes]:
        """Adds the explanations to the answers, after the answers to everything else have been sent.

        Args:
            pending: explanations to make, by the index of their request.
            bodies: the predictions' answers; those of ``pending`` are replaced.
            context: takes the responses' status.

        Returns:
            ``bodies``.
        """
        if not pending:
            return bodies
        if len(pending) < len(bodies):
            carrier = next((i for i in pending if can_carry(context, i)), None)
            if carrier is None:
                # A unary gRPC call beside predictions: these cannot leave first.
                busy = InputError("busy", "the worker answers predictions first; ask again")
                for i in pending:
                    bodies[i] = self._respond(context, i, busy)
                return bodies
            answer_early(context, bodies, pending, carrier)
        end = time.monotonic() + self._config.explain_seconds
        for i, waiting in pending.items():
            bodies[i] = self._respond(context, i, self._explain(waiting, bodies[i], end))
        return bodies

    def _explain(self, pending: Pending, body: bytes, end: float) -> bytes | InputError:
        left = end - time.monotonic()
        busy = InputError("busy", "other explanations came first; ask again")
        if left <= 0 or self._explainer is None:
            return busy
        try:
            explanation = self._explainer.explain(pending.inputs, pending.prediction, pending.request, left)
            return add_to_answer(body, {"explanation": explanation.as_json()})
        except InputError as error:
            # What is too slow in what others have left of the time may be fast enough on its own.
            shared = left < 0.95 * self._config.explain_seconds
            return busy if error.code == "too_slow" and shared else error
        except Exception:
            # Whatever one input brings to light inside of a library, the worker goes on.
            logger.exception("an explanation failed")
            return InputError("internal_error", "the explanation failed; try another method")

    def _respond(self, context: Any, index: int, answer: bytes | InputError) -> bytes:
        self._count(answer.code if isinstance(answer, InputError) else "ok")
        status, body = encode_error(answer) if isinstance(answer, InputError) else (200, answer)
        context.set_response_status(status, HTTPStatus(status).phrase, index)
        return body
