"""Answers a part of a batch before the rest, in TorchServe's own protocol. Runs in its worker only.

TorchServe's front end waits for further messages about a batch as long as one of the answers in a message is marked
as the beginning of a stream; the others in it are complete and go out. So the predictions of a batch leave together
with the first byte of one explanation, the carrier, whose HTTP answer is then sent in chunks. The mark is set by
``Context.stopping_criteria``, which streaming handlers use.
"""

from collections.abc import Collection, Sequence
from typing import Any

FIRST_BYTE = b" "
"""JSON allows white space before a value."""


def can_carry(context: Any, index: int) -> bool:
    """Whether a request's answer may come in pieces: over HTTP it may, a unary gRPC call takes a single one.

    The front end marks every HTTP request with the header ``explain``, and no gRPC one, where an input of that name
    has its content type in the header's place.
    """
    # Only the worker's Service gives its context a socket.
    return getattr(context, "cl_socket", None) is not None and context.get_request_header(index, "explain") in (
        "True",
        "False",
    )


def answer_early(context: Any, bodies: Sequence[bytes], waiting: Collection[int], carrier: int) -> None:
    """Sends all answers but those that are ``waiting``; the worker's own message at the end then holds only these.

    Args:
        context: ``ts.context.Context``, with each response's status and content type set.
        bodies: one a request.
        waiting: requests that are answered at the end.
        carrier: the one of them whose answer begins now, with its status and content type; :func:`can_carry` it.
    """
    from ts.protocol.otf_message_handler import create_predict_response  # handlers are imported without TorchServe, too

    # Service.predict encodes its message for the ids of this very mapping, after the handler has returned.
    ids = context.request_ids
    now = {index: ids[index] for index in ids if index not in waiting or index == carrier}
    parts = [FIRST_BYTE if index == carrier else body for index, body in enumerate(bodies)]
    context.stopping_criteria = {
        index: (lambda _: False) if index == carrier else (lambda _: None) for index in range(len(bodies))
    }
    try:
        message = create_predict_response(parts, now, "Prediction success", 200, context)
    finally:
        # From here on the encoder itself ends a stream that was begun.
        context.stopping_criteria = None
    context.cl_socket.sendall(message)
    for index in now:
        if index != carrier:
            del ids[index]
