"""What can be asked of the gateway over GraphQL: from arguments to a call, from a reply to typed answers."""

import json
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.scalars import JSON

from marquee.gateway.backend import Call, Reply, Version
from marquee.gateway.doors.graphql_types import (
    Answer,
    Classification,
    Context,
    Info,
    Interval,
    Item,
    ItemError,
    Model,
    OtherAnswer,
    Predictions,
    Ranked,
    Regression,
    Server,
    Worker,
    refused,
)
from marquee.gateway.errors import BAD_REQUEST, TOO_LARGE, GatewayError

MAX_ITEMS = 500
"""Of one prediction. A model may take more over its other protocols, which cost less for each item."""


@strawberry.type
class Query:
    """Nothing here changes anything."""

    @strawberry.field
    def models(self, info: Info) -> list[Model]:
        """Every version of every model."""
        return [_model(version) for version in info.context.gateway.readiness.versions]

    @strawberry.field
    def model(self, info: Info, name: str, version: str | None = None) -> Model | None:
        """One version; the default version where none is named."""
        try:
            return _model(info.context.gateway.version(name, version))
        except GatewayError as error:
            raise refused(error) from error

    @strawberry.field
    async def predict(
        self, info: Info, model: str, items: list[Item], version: str | None = None
    ) -> Predictions | None:
        """Predictions for items; each counts against the rate of the key."""
        try:
            call = _call(info.context, model, version, items)
            reply = await info.context.gateway.ask(call, info.context.caller)
        except GatewayError as error:
            raise refused(error) from error
        return _predictions(reply)


def _call(context: Context, model: str, version: str | None, items: list[Item]) -> Call:
    if not model:
        raise GatewayError(BAD_REQUEST, "model: expected a name")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise GatewayError(BAD_REQUEST, f"items: expected 1 to {MAX_ITEMS}, got {len(items)}")
    body = json.dumps({"instances": [_instance(item) for item in items]}).encode()
    limit = context.gateway.config.max_request_bytes
    if len(body) > limit:
        raise GatewayError(TOO_LARGE, f"items: {len(body):,} bytes; at most {limit:,}")
    return Call(model=model, version=version, body=body, headers=dict(context.headers))


def _instance(item: Item) -> Any:
    return {"b64": item.image.value} if item.image is not None else item.row.value if item.row is not None else None


def _model(version: Version) -> Model:
    return Model(
        name=version.name,
        version=version.version,
        default=version.is_default,
        ready=version.ready_workers > 0,
        workers=[Worker(id=strawberry.ID(worker.id), state=worker.state) for worker in version.workers],
        pending=version.pending,
    )


def _predictions(reply: Reply) -> Predictions:
    """The handler's answer to ``{"instances": [...]}``; GraphQLError where it is one error for all items."""
    try:
        document = json.loads(reply.body)
    except ValueError:
        document = {}
    if not isinstance(document, dict) or "predictions" not in document:
        raise _failed(reply.status, document.get("error") if isinstance(document, dict) else None)
    model = document["model"]
    return Predictions(
        model=Server(**{name: str(model.get(name, "")) for name in ("name", "version", "bundle", "variant", "reason")}),
        answers=[_answer(answer) for answer in document["predictions"]],
    )


def _failed(status: int, error: Any) -> GraphQLError:
    if isinstance(error, dict):
        return GraphQLError(str(error.get("message")), extensions={"code": error.get("code"), "status": status})
    message = error if isinstance(error, str) else f"the model did not answer (status {status})"
    return GraphQLError(message, extensions={"code": "not_answered", "status": status})


def _answer(raw: dict[str, Any]) -> Answer:
    """By the members that each kind of answer has."""
    if "error" in raw:
        return ItemError(raw=JSON(raw), code=raw["error"]["code"], message=raw["error"]["message"])
    if {"label", "probability", "ranking"} <= raw.keys():
        return Classification(
            raw=JSON(raw),
            label=raw["label"],
            probability=raw["probability"],
            labels=raw.get("labels"),
            ranking=[
                Ranked(**{name: one[name] for name in ("label", "index", "probability")}) for one in raw["ranking"]
            ],
            distance=raw.get("distance"),
            unfamiliar=raw.get("unfamiliar"),
            abstained=raw.get("abstained", False),
            reason=raw.get("reason"),
        )
    if isinstance(raw.get("value"), (int, float)):
        interval = raw.get("interval")
        return Regression(
            raw=JSON(raw),
            value=raw["value"],
            interval=None
            if interval is None
            else Interval(**{name: interval[name] for name in ("low", "high", "level")}),
            unfamiliar=raw.get("unfamiliar", []),
        )
    return OtherAnswer(raw=JSON(raw))
