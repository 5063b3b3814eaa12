"""What the handler calls: requests of the Open Inference Protocol, told from others, read and answered."""

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..payload import Request, parse
from ..predictor import Predictor
from ..quoting import quote
from ..service_metrics import REST, protocol
from .answer import OF_EVERY_MODEL, Form
from .datatypes import WireError
from .items import open_items
from .metadata import TensorSpec
from .request import (
    Envelope,
    Message,
    find_message,
    find_nearly,
    is_raw,
    read_document,
    read_envelope,
    read_tensors,
)

logger = logging.getLogger(__name__)

Question = tuple[Request, Form]
"""The items of a request, and how its answer is written."""


class OpenInference:
    """The protocol for one loaded model.

    Args:
        predictor: the model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._source = predictor.input
        self._inputs: tuple[TensorSpec, ...] = tuple(predictor.spec.input.tensors())
        self._outputs: tuple[TensorSpec, ...] = (*predictor.spec.output.tensors(predictor.variant), *OF_EVERY_MODEL)

    def describe(self) -> dict[str, Any]:
        """The tensors, as the protocol's metadata of a model has them."""
        return {
            "inputs": [tensor.as_json() for tensor in self._inputs],
            "outputs": [tensor.as_json() for tensor in self._outputs],
        }

    def read(self, fields: Mapping[str, Any], headers: Mapping[str, Any], wants_explanation: bool) -> Question | None:
        """Reads one request; what is wrong with it is an item.

        Args:
            fields: as :func:`marquee.handlers.core.payload.unpack_fields` gives them.
            headers: of the request.
            wants_explanation: whether it came to the path of explanations.

        Returns:
            None where it is no request of this protocol.
        """
        message = find_message(fields, headers)
        if message is not None and wants_explanation:
            return _refused(InputError("not_supported", "this protocol has no explanations; send the input by itself"))
        return None if message is None else self._answer(message, headers)

    def read_refused(self, fields: Mapping[str, Any], headers: Mapping[str, Any], request: Request) -> Question | None:
        """As :meth:`read`, of a request that was read as another one of which nothing can be used.

        One of this protocol in which a member is missing is not recognised as such; its sender wants to read which one.

        Args:
            fields: see :meth:`read`.
            headers: see :meth:`read`.
            request: what it was read as.
        """
        if not all(isinstance(item, InputError) for item in request.items):
            return None
        message = find_nearly(fields)
        return None if message is None else self._answer(message, headers)

    def _answer(self, message: Message, headers: Mapping[str, Any]) -> Question:
        try:
            return self._read(message, protocol(headers) == REST)
        except InputError as error:
            return _refused(error)
        except WireError as error:
            return _refused(InputError("bad_request", str(error)))
        except MemoryError:
            # TorchServe answers a MemoryError with 507 for the whole batch.
            return _refused(InputError("too_large", "the server has not enough memory to read this request"))
        except Exception:
            # A mistake of ours that one request brings to light must not fail the requests batched with it.
            logger.exception("a request could not be read")
            return _refused(InputError("internal_error", "the request could not be read"))

    def _read(self, message: Message, may_be_binary: bool) -> Question:
        if is_raw(message):
            return parse({"body": message.body}, self._source), self._form(Envelope(), may_be_binary)
        document, rest = read_document(message)
        form = self._form(read_envelope(document), may_be_binary)
        items = open_items(read_tensors(document, rest, self._source.max_items), self._source)
        return Request(tuple(items), is_list=True), form

    def _form(self, envelope: Envelope, may_be_binary: bool) -> Form:
        """The tensors of an answer.

        Args:
            envelope: of the request.
            may_be_binary: whether a header can tell the client where the document ends.

        Raises:
            InputError: an output is not the model's.
        """
        if envelope.outputs is None:
            chosen = [(tensor, envelope.is_binary) for tensor in self._outputs]
        else:
            known = {tensor.name: tensor for tensor in self._outputs}
            for wanted in envelope.outputs:
                if wanted.name not in known:
                    names = ", ".join(known)
                    raise InputError("bad_request", f"unknown output {quote(wanted.name)}; the model has {names}")
            chosen = [(known[wanted.name], wanted.is_binary) for wanted in envelope.outputs]
        return Form(envelope.id, tuple((tensor, is_binary and may_be_binary) for tensor, is_binary in chosen))


def _refused(error: InputError) -> Question:
    return Request((error,), is_list=False), Form()
