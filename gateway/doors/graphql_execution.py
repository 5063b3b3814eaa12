"""Runs one GraphQL operation and says what came of it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.exceptions import MissingQueryError
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionContext
from strawberry.types.graphql import OperationType

from marquee.gateway.access.caller import Caller
from marquee.gateway.doors.graphql import extensions, retry_after
from marquee.gateway.doors.graphql_limits import LIMITERS, MAX_CHARACTERS
from marquee.gateway.doors.graphql_schema import MAX_ITEMS, Query
from marquee.gateway.doors.graphql_types import ANSWERS, Context
from marquee.gateway.errors import BAD_REQUEST, INTERNAL, GatewayError
from marquee.gateway.gateway import Gateway
from marquee.handlers.core.quoting import shorten

logger = logging.getLogger(__name__)

_PASSED_ON = ("traceparent", "tracestate", "x-request-id")
"""Headers of the request that concern the body of a prediction, too."""


class _Schema(strawberry.Schema):
    """Logs nothing of an operation's errors; see :func:`_public`."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Strawberry would log each with its trace, and a client's mistakes among them."""


@dataclass(frozen=True)
class Outcome:
    """Of one operation."""

    document: dict[str, Any]
    """``data`` and ``errors``."""
    is_request_error: bool
    """Whether nothing was run."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Executor:
    """Answers operations.

    Args:
        gateway: whose models are asked.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._schema = _Schema(
            query=Query,
            types=ANSWERS,
            extensions=LIMITERS,
            config=StrawberryConfig(disable_field_suggestions=True),
        )

    async def execute(self, question: Mapping[str, Any], caller: Caller, headers: Mapping[str, str]) -> Outcome:
        """The outcome of one operation.

        Args:
            question: ``query``, and perhaps ``variables`` and ``operationName``.
            caller: who asks; each prediction counts against the caller's rate.
            headers: of the request, with names in any case.
        """
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        context = Context(self._gateway, caller, passed, question.get("operationName"))
        try:
            _check_size(question)
            result = await self._schema.execute(
                question["query"],
                variable_values=question.get("variables"),
                context_value=context,
                operation_name=question.get("operationName"),
                allowed_operation_types=(OperationType.QUERY,),
            )
        except GatewayError as error:
            return _refusal(error)
        except (MissingQueryError, CannotGetOperationTypeError):
            return _refusal(GatewayError(BAD_REQUEST, "query: there is no such operation in it"))
        except InvalidOperationTypeError:
            return _refusal(GatewayError(BAD_REQUEST, "query: only queries are taken; nothing can be changed here"))
        except RecursionError:
            return _refusal(GatewayError(BAD_REQUEST, "the operation is nested too deeply"))
        finally:
            for task in context.described.values():
                task.cancel()
        return _outcome(result.data, [_public(error) for error in result.errors or ()])


def _check_size(question: Mapping[str, Any]) -> None:
    """Limits for what is walked item by item before any resolver runs."""
    if len(question["query"]) > MAX_CHARACTERS:
        hint = "send images and rows as variables"
        raise GatewayError(BAD_REQUEST, f"query: more than {MAX_CHARACTERS} characters; {hint}")
    for name, value in (question.get("variables") or {}).items():
        if isinstance(value, list) and len(value) > MAX_ITEMS:
            raise GatewayError(BAD_REQUEST, f"variables: {shorten(name)}: {len(value)} items; at most {MAX_ITEMS}")


def _refusal(error: GatewayError) -> Outcome:
    return Outcome({"errors": [{"message": error.message, "extensions": extensions(error)}]}, is_request_error=True)


def _outcome(data: dict[str, Any] | None, errors: list[dict[str, Any]]) -> Outcome:
    if not errors:
        return Outcome({"data": data}, is_request_error=False)
    # An operation that was run has a path in each of its errors.
    was_run = data is not None or any("path" in error for error in errors)
    document = {"errors": errors, "data": data} if was_run else {"errors": errors}
    waits = [error["extensions"]["retry_after"] for error in errors if "retry_after" in error.get("extensions", {})]
    return Outcome(document, is_request_error=not was_run, headers=retry_after(max(waits)) if waits else {})


def _public(error: GraphQLError) -> dict[str, Any]:
    """What a client may read of an error: never the words of an exception that nobody foresaw."""
    shown: dict[str, Any] = dict(error.formatted)
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, RecursionError):
        shown["message"] = "the operation is nested too deeply"
    elif cause is not None and not isinstance(cause, GraphQLError) and error.path is not None:
        logger.error("a GraphQL operation failed", exc_info=cause)
        shown["message"] = INTERNAL.title
        shown["extensions"] = {"code": INTERNAL.code, "status": INTERNAL.status}
    elif cause is not None and not isinstance(cause, GraphQLError):
        shown["message"] = "the operation cannot be read"
    shown["message"] = shorten(shown["message"])
    shown.setdefault("extensions", {"code": BAD_REQUEST.code, "status": BAD_REQUEST.status})
    return shown
