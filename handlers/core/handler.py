"""The life of a TorchServe worker, from load to answer: initialize, then preprocess, inference, postprocess.

A request is answered on its own, whatever came in the batch beside it; the errors of its items are part of its answer.
"""

import gc
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ..explain.batch import Explanations, Pending
from ..explain.request import ONE_INPUT, Settings
from .arrays import take
from .batch import Batch
from .description import describe
from .errors import BundleError, InputError
from .golden import read_golden, verify_golden
from .host import usable_cores
from .oip.answer import Form, Response
from .oip.protocol import OpenInference
from .output import Prediction
from .payload import Request, encode_answer, encode_error, parse, unpack_fields
from .predictor import Predictor
from .repeated_parts import keep_repeated_parts
from .schema import SchemaError
from .service_metrics import REST, ServiceMetrics, protocol
from .spec import BUNDLE_FOLDER
from .threads import set_threads
from .worker_config import WorkerConfig, read_worker_config
from .worker_process import device_of, exit_if_device_is_lost, silence_request_log

logger = logging.getLogger(__name__)

STREAM_NEXT = "ts_stream_next"
"""Header of an answer by which TorchServe's front end knows whether more of it follows."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request of a batch on its way to an answer."""

    request: Request
    """Its items; none where ``answer`` is given."""
    explanation: Settings | None = None
    """The explanation that it asks for, beside its prediction."""
    answer: tuple[int, bytes] | None = None
    """HTTP status and body of one that needs no prediction."""
    form: Form | None = None
    """How its answer is written where it is a request of the Open Inference Protocol."""

    def encode(self, answers: Sequence[Prediction | InputError], model: dict[str, str]) -> Response:
        """The answer to it.

        Args:
            answers: one for each of its items.
            model: sent with every answer.
        """
        if self.form is not None:
            return self.form.encode(answers, model)
        return Response(*(self.answer or encode_answer(answers, self.request.is_list, model)))


class Handler:
    """One worker's model.

    Raises from :meth:`initialize` are RuntimeError, because that is what TorchServe's worker reports and retries;
    anything else would end in a bare stack trace.
    """

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._model: dict[str, str] = {}
        self._metrics = ServiceMetrics()
        self._explanations: Explanations | None = None
        self._open_inference: OpenInference | None = None

    @property
    def predictor(self) -> Predictor:
        """The loaded model."""
        if self._predictor is None:
            raise RuntimeError("the model is not loaded; TorchServe calls initialize first")
        return self._predictor

    @property
    def explanations(self) -> Explanations:
        """What answers ``explain`` for the loaded model."""
        if self._explanations is None:
            raise RuntimeError("the model is not loaded; TorchServe calls initialize first")
        return self._explanations

    @property
    def open_inference(self) -> OpenInference:
        """What reads requests of the Open Inference Protocol for the loaded model."""
        if self._open_inference is None:
            self._open_inference = OpenInference(self.predictor)
        return self._open_inference

    def initialize(self, context: Any) -> None:
        """Loads the archive's bundle and replays its golden samples.

        Args:
            context: ``ts.context.Context``.

        Raises:
            RuntimeError: the bundle is damaged, or an answer differs from evaluation's.
        """
        silence_request_log()
        keep_repeated_parts()
        folder = Path(context.system_properties["model_dir"]).resolve()
        _refuse_foreign_code(folder)
        config = _worker_config(context.model_yaml_config or {})
        set_threads(config.threads, config.threads_alone)
        device = device_of(context.system_properties.get("gpu_id"))
        batch_size = int(context.system_properties.get("batch_size") or 1)

        def make_ready(loaded: Predictor) -> None:
            verify_golden(loaded)
            loaded.warm_up(batch_size)

        try:
            variant = None if config.variant == "auto" else config.variant
            predictor = Predictor.load(folder / BUNDLE_FOLDER, device, variant, make_ready, config.decode_threads)
        except BundleError as error:
            raise RuntimeError(f"{context.model_name} is not served: {error}") from error
        except ImportError as error:  # of what the kind of input or output imports
            missing = f"it needs a library that this server does not have: {error}"
            raise RuntimeError(f"{context.model_name} is not served: {missing}") from error
        version = str((context.manifest or {}).get("model", {}).get("modelVersion", ""))
        self._model = {
            "name": context.model_name,
            "version": version,
            "bundle": predictor.bundle.digest,
            "variant": predictor.variant.name,
            "reason": predictor.reason,
        }
        self._predictor = predictor
        self._metrics.report_to(context.metrics, predictor, context.model_name, version)
        self._explanations = Explanations(predictor, device, config, self._metrics.count_explanation)
        # What was loaded stays: a full collection that walks all of torch would hold a request up now and then.
        gc.collect()
        gc.freeze()
        checked = len(read_golden(predictor.bundle, predictor.variant))
        logger.info("%s ready on %s: %d golden answers equal", json.dumps(self._model), device, checked)

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answers one batch.

        Args:
            requests: one mapping a request (see :func:`marquee.handlers.core.payload.parse`).
            context: ``ts.context.Context``; takes each response's status and content type.

        Returns:
            One body a request, in the order of ``requests``: JSON, or with raw tensors where a client asks for them.
        """
        with self._metrics.stage("batch"):
            with self._metrics.stage("decode"):
                calls, batch = self.preprocess(requests, context)
            predictions = self.inference(batch)
            with self._metrics.stage("encode"):
                bodies, pending = self.postprocess(calls, batch, predictions, context)
            if pending:
                with self._metrics.stage("explain"):
                    bodies = self.explanations.complete(pending, bodies, context)
        self._metrics.count_batch(len(requests))
        return bodies

    def preprocess(self, requests: Sequence[dict[str, Any]], context: Any) -> tuple[list[Call], Batch]:
        """Reads every request, and decodes the items of all of them into one batch."""
        calls = [self._read(index, fields, context) for index, fields in enumerate(requests)]
        return calls, self.predictor.input.collate([item for call in calls for item in call.request.items])

    def inference(self, batch: Batch) -> list[Any]:
        """Predictions for the good items in one pass of the engine; the errors of the others are in their places."""
        if not len(batch):
            return batch.with_errors([])
        try:
            with self._metrics.stage("inference"):
                return self.predictor.predict_batch(batch)
        except Exception as error:
            exit_if_device_is_lost(error)
            logger.exception("inference failed for a batch of %d items", len(batch))
            failed = InputError("inference_failed", "the model could not be run; try again")
            return batch.with_errors([failed] * len(batch))

    def postprocess(
        self, calls: Sequence[Call], batch: Batch, predictions: Sequence[Prediction | InputError], context: Any
    ) -> tuple[list[bytes], dict[int, Pending]]:
        """Encodes the answer to each request.

        Args:
            calls: of :meth:`preprocess`.
            batch: of :meth:`preprocess`.
            predictions: of :meth:`inference`, for the items of all calls in their order.
            context: takes each response's status and content type.

        Returns:
            One body a request, and by the index of their request the explanations that are still to be made.
        """
        bodies, pending = [], {}
        places = _places(batch)
        done = 0
        for index, call in enumerate(calls):
            answers = predictions[done : done + len(call.request.items)]
            response = call.encode(answers, self._model)
            status = response.status
            context.set_response_status(status, HTTPStatus(status).phrase, index)
            context.set_response_content_type(index, response.content_type)
            for name, value in response.headers.items():
                context.set_response_header(index, name, value)
            bodies.append(response.body)
            headers = context.get_all_request_header(index)
            self._metrics.count_request(headers, status, answers)
            if protocol(headers) != REST:
                # One answer is all. In a call of StreamPredictions, the front end fails where this is absent, and loses
                # the worker with all requests that wait; in one of Predictions it is not looked at.
                context.set_response_header(index, STREAM_NEXT, "false")
            if call.explanation is not None and status == HTTPStatus.OK:
                place = places[done]
                inputs = take(batch.inputs, slice(place, place + 1))
                pending[index] = Pending(call.explanation, inputs, answers[0])
            done += len(answers)
        return bodies, pending

    def _read(self, index: int, fields: dict[str, Any], context: Any) -> Call:
        """One request, whatever it asks for."""
        nothing = Request((), is_list=True)
        try:
            fields = unpack_fields(fields)  # there may be settings of an explanation in it
            headers = context.get_all_request_header(index) or {}
            question = self.open_inference.read(fields, headers, context.get_request_header(index, "explain") == "True")
            if question is not None:
                return Call(request=question[0], form=question[1])
            explanation, fields = self.explanations.parse(fields, context.get_request_header(index, "explain"))
            if explanation is None and _is_describe(fields, context.get_request_header(index, "describe")):
                description = describe(self.predictor.spec, self._model, self.open_inference.describe())
                return Call(request=nothing, answer=(200, json.dumps(description, ensure_ascii=False).encode()))
            request = parse(fields, self.predictor.input)
            if (question := self.open_inference.read_refused(fields, headers, request)) is not None:
                return Call(request=question[0], form=question[1])
            if explanation is not None and len(request.items) != 1:
                raise InputError("bad_request", ONE_INPUT)
            return Call(request=request, explanation=explanation)
        except InputError as error:
            return Call(request=nothing, answer=encode_error(error))
        except Exception:
            # A mistake of ours that one request brings to light must not fail the requests batched with it.
            logger.exception("a request could not be read")
            failed = InputError("internal_error", "the request could not be read")
            return Call(request=Request((failed,), is_list=False))


def _places(batch: Batch) -> dict[int, int]:
    """Number of a good item among all -> its row in the batch."""
    good: Iterator[int] = (number for number, error in enumerate(batch.errors) if error is None)
    return {number: row for row, number in enumerate(good)}


def _is_describe(fields: dict[str, Any], header: str | None) -> bool:
    """TorchServe marks ``describe`` by a header, and batches it with predictions."""
    return header == "True" and not any(fields.values())


def _worker_config(document: dict[str, Any]) -> WorkerConfig:
    try:
        config = read_worker_config(document)
        return config.resolve(int(document.get("maxWorkers", 1)), usable_cores())
    except SchemaError as error:
        raise RuntimeError(str(error)) from error


def _refuse_foreign_code(folder: Path) -> None:
    """An inherited PYTHONPATH comes before the archive; code from there may decode differently."""
    code = Path(__file__).resolve()
    if folder not in code.parents:
        raise RuntimeError(
            f"the handler was imported from {code.parent}, not from the archive in {folder}; "
            "remove that folder from PYTHONPATH"
        )
