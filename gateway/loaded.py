"""One archive, loaded into this process, with the handler that answers inside TorchServe too."""

import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marquee.gateway.backend import Call, LostError, Reply
from marquee.gateway.form_fields import fields_of
from marquee.handlers.core.errors import BundleError, InputError
from marquee.handlers.core.golden import verify_golden
from marquee.handlers.core.handler import Handler
from marquee.handlers.core.payload import JSON_CONTENT_TYPE, encode_error
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.explain.batch import Explanations
from marquee.serving.archive import open_archive
from marquee.serving.errors import OperationError
from marquee.serving.model_config import read_model_config, worker_config
from marquee.serving.store import MANIFEST

_DEVICE = "cpu"


class LoadedArchive:
    """Answers calls, one after the other. :meth:`load` takes seconds; both block, so they belong into a thread.

    Args:
        name: of the model on this host.
        archive: its ``.mar``.
    """

    def __init__(self, name: str, archive: Path) -> None:
        self.name = name
        self.archive = archive
        self.version = _version(archive)
        self._handler: _ArchiveHandler | None = None

    def load(self) -> None:
        """Loads the bundle, and replays its golden samples.

        Raises:
            OperationError: the archive cannot be read, or its answers differ from evaluation's.
        """
        # Engines map files of the bundle into memory, or read them when they are first used.
        self._folder = tempfile.TemporaryDirectory(prefix="marquee-")
        with open_archive(self.archive, Path(self._folder.name)) as folder:
            try:
                handler = _ArchiveHandler()
                handler.load(folder, self.name, self.version, read_model_config(self.archive))
            except (BundleError, ImportError) as error:
                raise OperationError(f"{self.archive}: is not served: {error}") from error
        self._handler = handler

    def close(self) -> None:
        """Frees the model, and removes its files."""
        if self._handler is not None:
            self._handler = None
            self._folder.cleanup()

    def answer(self, call: Call) -> Reply:
        """The handler's answer to one call.

        Raises:
            LostError: it is not loaded.
        """
        try:
            fields = fields_of(call.body, call.content_type)
        except InputError as error:
            status, body = encode_error(error)
            return Reply(status=status, body=body)
        is_explanation = call.verb == "explanations"
        # TorchServe names the type of a body's part in the place of a header.
        headers = {**call.headers, "content-type": call.content_type, "explain": str(is_explanation)}
        return self._handle(fields, headers)

    def describe(self) -> Mapping[str, Any]:
        """What the handler says of itself.

        Raises:
            LostError: it is not loaded.
        """
        document: dict[str, Any] = json.loads(self._handle({}, {"describe": "True", "explain": "False"}).body)
        return document

    def _handle(self, fields: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        if self._handler is None:
            raise LostError(f"{self.name} is not loaded")
        context = _Context(headers)
        (body,) = self._handler.handle([fields], context)
        content_type = context.answer.pop("content-type", JSON_CONTENT_TYPE)
        return Reply(status=context.status, body=bytes(body), content_type=content_type, headers=context.answer)


class _ArchiveHandler(Handler):
    """The handler without TorchServe around it: the number of threads, for example, is this process's own."""

    def load(self, folder: Path, name: str, version: str, document: Mapping[str, Any]) -> None:
        """As :meth:`initialize` does it inside a worker.

        Raises:
            BundleError: the bundle is damaged, or an answer differs.
        """
        config = worker_config(document).resolve(1, 1)
        variant = None if config.variant == "auto" else config.variant
        predictor = Predictor.load(folder, _DEVICE, variant, verify_golden, config.decode_threads)
        self._predictor = predictor
        self._model = {
            "name": name,
            "version": version,
            "bundle": predictor.bundle.digest,
            "variant": predictor.variant.name,
            "reason": predictor.reason,
        }
        self._explanations = Explanations(predictor, _DEVICE, config, self._metrics.count_explanation)


class _Context:
    """What a handler asks of ``ts.context.Context``, for a batch of one request over REST."""

    cl_socket = None

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)
        self.status = 200
        self.answer: dict[str, str] = {}
        """Headers of the answer, in lower case."""

    def get_request_header(self, index: int, key: str) -> str | None:
        """A header of the request, by its name in lower case."""
        return self._headers.get(key)

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """All headers of the request."""
        return self._headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """The status of the answer."""
        self.status = code

    def set_response_content_type(self, index: int, value: str) -> None:
        """The type of the answer."""
        self.set_response_header(index, "content-type", value)

    def set_response_header(self, index: int, key: str, value: str) -> None:
        """A header of the answer."""
        self.answer[key.lower()] = value


def _version(archive: Path) -> str:
    """The model's version in an archive's manifest.

    Raises:
        OperationError: the file is no archive.
    """
    try:
        with zipfile.ZipFile(archive) as archived:
            return str(json.loads(archived.read(MANIFEST))["model"]["modelVersion"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise OperationError(f"{archive}: not a model archive: {error}") from error
