"""Explanations within a batch of requests: never at the cost of the predictions beside them."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from ..errors import InputError
from ..explain.early import answer_early, can_carry
from ..explain.explainer import Explainer, check_captum
from ..explain.request import Ask, may_ask, read_ask
from ..payload import add_to_answer, encode_error
from ..predictor import Prediction
from ..worker_config import WorkerConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Open:
    """An explanation that is still to be made: its prediction succeeded."""

    ask: Ask
    pixels: np.ndarray
    """uint8 (crop, crop, channels)."""
    prediction: Prediction


class Explanations:
    """What the service asks about explanations.

    Args:
        explainer: of the served model.
        config: whether, and for how long (``explain``, ``explain_seconds``).
        count: told what came of each explanation: ``ok`` or an error's code.
    """

    def __init__(
        self, explainer: Explainer, config: WorkerConfig, count: Callable[[str], None] = lambda outcome: None
    ) -> None:
        self._explainer = explainer
        self._config = config
        self._count = count

    def take(
        self, requests: Sequence[dict[str, Any]], context: Any
    ) -> tuple[list[dict[str, Any]], dict[int, Ask | InputError]]:
        """Finds the requests that want an explanation.

        Returns:
            The requests, those without their settings, so that each is a prediction's; and by their index, what they
            ask, or the error that they get in place of everything.
        """
        left, asked = list(requests), dict[int, Ask | InputError]()
        for i, request in enumerate(requests):
            is_asked = context.get_request_header(i, "explain") == "True"
            if not is_asked and not may_ask(request):
                continue
            try:
                found = read_ask(request, is_asked)
                if found is not None:
                    asked[i], left[i] = found
                    self._check(found[0])
            except InputError as error:
                asked[i] = error
            except Exception:
                logger.exception("a request could not be read")
                asked[i] = InputError("internal_error", "the request could not be read")
        return left, asked

    def _check(self, ask: Ask) -> None:
        if not self._config.explain:
            raise InputError("not_supported", "explanations are switched off for this model (explain: false)")
        check_captum()
        if ask.label is not None:
            self._explainer.index_of(ask.label)

    def open(
        self,
        ask: Ask | InputError | None,
        images: Sequence[np.ndarray | InputError],
        answers: Sequence[Prediction | InputError],
    ) -> Open | None:
        """The explanation that a request still waits for; None when it has all of its answer.

        Args:
            ask: see :meth:`take`.
            images: of the request, uint8 (crop, crop, channels) each, as the engine saw them.
            answers: to these.
        """
        if not isinstance(ask, Ask) or len(answers) != 1:
            return None
        pixels, prediction = images[0], answers[0]
        if isinstance(pixels, InputError) or isinstance(prediction, InputError):
            return None
        return Open(ask, pixels, prediction)

    def complete(self, open_: Mapping[int, Open], bodies: list[bytes], context: Any) -> list[bytes]:
        """Adds the explanations to the answers, after the answers to everything else have been sent.

        Args:
            open_: explanations to make, by the index of their request.
            bodies: the predictions' answers; those of ``open_`` are replaced.
            context: takes the responses' status.

        Returns:
            ``bodies``.
        """
        if not open_:
            return bodies
        if len(open_) < len(bodies):
            carrier = next((i for i in open_ if can_carry(context, i)), None)
            if carrier is None:
                # A unary gRPC call beside predictions: these cannot leave first.
                busy = InputError("busy", "the worker answers predictions first; ask again")
                for i in open_:
                    bodies[i] = self._respond(context, i, busy)
                return bodies
            answer_early(context, bodies, open_, carrier)
        end = time.monotonic() + self._config.explain_seconds
        for i, one in open_.items():
            bodies[i] = self._respond(context, i, self._explain(one, bodies[i], end))
        return bodies

    def _explain(self, one: Open, body: bytes, end: float) -> bytes | InputError:
        left = end - time.monotonic()
        busy = InputError("busy", "other explanations came first; ask again")
        if left <= 0:
            return busy
        try:
            explanation = self._explainer.explain(one.pixels, one.prediction, one.ask, left)
            return add_to_answer(body, {"explanation": explanation.as_json()})
        except InputError as error:
            # What is too slow in what others have left of the time may be fast enough on its own.
            shared = left < 0.95 * self._config.explain_seconds
            return busy if error.code == "too_slow" and shared else error
        except Exception:
            # Whatever one image brings to light inside of a library, the worker goes on.
            logger.exception("an explanation failed")
            return InputError("internal_error", "the explanation failed; try another method")

    def _respond(self, context: Any, index: int, answer: bytes | InputError) -> bytes:
        self._count(answer.code if isinstance(answer, InputError) else "ok")
        status, body = encode_error(answer) if isinstance(answer, InputError) else (200, answer)
        context.set_response_status(status, HTTPStatus(status).phrase, index)
        return body
