"""The TorchServe lifecycle: load once, prove it, then answer each request of a batch on its own."""

import json
import logging
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from .batch import Batch
from .errors import BundleError, InputError
from .explain.batch import Explanations
from .explain.explainer import Explainer
from .explain.request import Ask
from .golden import prove, read_golden
from .host import usable_cores
from .payload import JSON_CONTENT_TYPE, Request, encode_answer, encode_error, parse
from .predictor import Prediction, Predictor
from .schema import SchemaError, to_dict
from .service_metrics import ServiceMetrics
from .spec import BUNDLE_FOLDER, VariantSpec
from .threads import set_threads
from .worker_config import WorkerConfig, read_worker_config

logger = logging.getLogger(__name__)


class ClassifierService:
    """One worker's model.

    Raises from :meth:`initialize` are RuntimeError, because that is what TorchServe's worker reports and retries;
    anything else would end in a bare stack trace.
    """

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._model: dict[str, str] = {}
        self._metrics = ServiceMetrics()
        self._explanations: Explanations | None = None

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

    def initialize(self, context: Any) -> None:
        """Loads the archive's bundle and replays its golden samples.

        Args:
            context: ``ts.context.Context``.

        Raises:
            RuntimeError: the bundle is damaged, or an answer differs from evaluation's.
        """
        _silence_request_log()
        folder = Path(context.system_properties["model_dir"]).resolve()
        _refuse_foreign_code(folder)
        config = _worker_config(context.model_yaml_config or {})
        set_threads(config.threads, config.threads_alone)
        device = _device(context.system_properties.get("gpu_id"))
        batch_size = int(context.system_properties.get("batch_size") or 1)

        def make_ready(loaded: Predictor) -> None:
            prove(loaded)
            loaded.warm_up(batch_size)

        try:
            variant = None if config.variant == "auto" else config.variant
            predictor = Predictor.load(folder / BUNDLE_FOLDER, device, variant, make_ready, config.decode_threads)
        except BundleError as error:
            raise RuntimeError(f"{context.model_name} is not served: {error}") from error
        version = str((context.manifest or {}).get("model", {}).get("modelVersion", ""))
        self._model = {
            "name": context.model_name,
            "version": version,
            "bundle": predictor.digest,
            "variant": predictor.variant.name,
            "reason": predictor.reason,
        }
        self._predictor = predictor
        self._metrics.report_to(context.metrics, predictor, context.model_name, version)
        self._explanations = Explanations(Explainer(predictor, device), config, self._metrics.count_explanation)
        checked = len(read_golden(predictor.folder, predictor.spec, predictor.variant))
        logger.info("%s ready on %s: %d golden answers equal", json.dumps(self._model), device, checked)

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answers one batch.

        Args:
            requests: one mapping a request (see :func:`marquee.handlers.payload.parse`).
            context: ``ts.context.Context``; takes each response's status and content type.

        Returns:
            One JSON body a request, in the order of ``requests``.
        """
        with self._metrics.stage("batch"):
            bodies = self._answer(requests, context)
        self._metrics.count_batch(len(requests))
        return bodies

    def _answer(self, requests: list[dict[str, Any]], context: Any) -> list[bytes]:
        requests, asked = self.explanations.take(requests, context)
        special = {
            i: answer
            for i in range(len(requests))
            if (answer := self._answer_special(requests[i], asked.get(i), i, context))
        }
        with self._metrics.stage("decode"):
            parsed = [
                Request((), is_list=True) if i in special else self._parse(requests[i]) for i in range(len(requests))
            ]
            batch = self.predictor.prepare([item for request in parsed for item in request.items])
        answers, pixels = iter(self._predict(batch)), iter(batch.with_errors(list(batch.pixels)))
        bodies, unexplained = [], {}
        with self._metrics.stage("encode"):
            for i, request in enumerate(parsed):
                own = [next(answers) for _ in request.items]
                seen = [next(pixels) for _ in request.items]
                status, body = special[i] if i in special else encode_answer(own, request.is_list, self._model)
                context.set_response_status(status, HTTPStatus(status).phrase, i)
                context.set_response_content_type(i, JSON_CONTENT_TYPE)
                bodies.append(body)
                self._metrics.count_request(context.get_all_request_header(i), status, own)
                if not request.is_list and (waiting := self.explanations.open(asked.get(i), seen, own)):
                    unexplained[i] = waiting
        if not unexplained:
            return bodies
        with self._metrics.stage("explain"):
            return self.explanations.complete(unexplained, bodies, context)

    def _parse(self, fields: dict[str, Any]) -> Request:
        try:
            return parse(fields, self.predictor.spec.image)
        except Exception:
            # A mistake of ours that one request brings to light must not fail the requests batched with it.
            logger.exception("a request could not be read")
            return Request((InputError("internal_error", "the request could not be read"),), is_list=False)

    def _predict(self, batch: Batch) -> list[Prediction | InputError]:
        """Answers for the good images in one pass of the engine; an image's error stays where it is."""
        if not len(batch.pixels):
            return batch.with_errors([])
        try:
            with self._metrics.stage("inference"):
                return self.predictor.predict_batch(batch)
        except Exception as error:
            _exit_if_device_is_lost(error)
            logger.exception("inference failed for a batch of %d images", len(batch.pixels))
            failed: Prediction | InputError = InputError("inference_failed", "the model could not be run; try again")
            return batch.with_errors([failed] * len(batch.pixels))

    def _answer_special(
        self, fields: dict[str, Any], asked: Ask | InputError | None, index: int, context: Any
    ) -> tuple[int, bytes] | None:
        """Answers ``describe``, which TorchServe marks by a header and batches with predictions, and a bad ``explain``.

        A good one is a prediction first.
        """
        if isinstance(asked, InputError):
            return encode_error(asked)
        if asked is not None:
            return None
        if context.get_request_header(index, "describe") == "True" and not any(fields.values()):
            return 200, json.dumps(self._describe(), ensure_ascii=False).encode()
        return None

    def _describe(self) -> dict[str, Any]:
        spec = self.predictor.spec
        return {
            "model": self._model,
            "task": spec.task,
            "labels": list(spec.labels),
            "input": {"max_bytes": spec.image.max_bytes, "max_pixels": spec.image.max_pixels},
            "metrics": spec.provenance.get("metrics", {}),
            "variants": [_describe_variant(variant) for variant in spec.variants],
        }


def _describe_variant(variant: VariantSpec) -> dict[str, Any]:
    return {
        "name": variant.name,
        "engine": variant.engine,
        "precision": variant.precision,
        "measurements": [to_dict(measurement) for measurement in variant.measurements],
    }


def _worker_config(document: dict[str, Any]) -> WorkerConfig:
    try:
        config = read_worker_config(document)
        return config.resolve(int(document.get("maxWorkers", 1)), usable_cores())
    except SchemaError as error:
        raise RuntimeError(str(error)) from error


def _silence_request_log() -> None:
    """TorchServe's worker logs a line for every batch, on a root logger that also carries the metrics."""

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Backend received inference")

    for handler in logging.getLogger().handlers:
        handler.addFilter(keep)


def _refuse_foreign_code(folder: Path) -> None:
    """An inherited PYTHONPATH comes before the archive; code from there may decode differently."""
    code = Path(__file__).resolve()
    if folder not in code.parents:
        raise RuntimeError(
            f"the handler was imported from {code.parent}, not from the archive in {folder}; "
            "remove that folder from PYTHONPATH"
        )


def _device(gpu_id: int | None) -> str:
    if gpu_id is not None and torch.cuda.is_available():
        return f"cuda:{gpu_id}"
    return "cpu"


def _exit_if_device_is_lost(error: Exception) -> None:
    """After a CUDA fault every later call fails too; a new process is the only cure, and TorchServe starts one."""
    lost = getattr(torch, "AcceleratorError", None)
    if lost is not None and isinstance(error, lost):
        logger.critical("the device is lost, this worker ends: %s", error)
        logging.shutdown()
        os._exit(1)
