"""The types of the GraphQL schema, and what one operation knows."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.scalars import JSON

from marquee.gateway.access.caller import Caller
from marquee.gateway.backend import AbsentError, LostError
from marquee.gateway.doors.graphql import extensions
from marquee.gateway.errors import NOT_FOUND, NOT_READY, GatewayError
from marquee.gateway.gateway import Gateway


@dataclass
class Context:
    """Of one operation."""

    gateway: Gateway
    caller: Caller
    headers: Mapping[str, str]
    """Of the request that reach the handler."""
    operation: str | None = None
    """Which one of a document's is asked for."""
    described: "dict[tuple[str, str], asyncio.Task[Mapping[str, Any]]]" = field(default_factory=dict)

    async def describe(self, name: str, version: str) -> Mapping[str, Any]:
        """What the handler says of itself, asked for once in an operation."""
        if (name, version) not in self.described:
            asking = self.gateway.backend.describe(name, version)
            self.described[name, version] = asyncio.ensure_future(asking)
        try:
            return await asyncio.shield(self.described[name, version])
        except AbsentError as error:
            raise refused(GatewayError(NOT_FOUND, str(error))) from error
        except LostError as error:
            missing = GatewayError(NOT_READY, f"no worker of model {name!r} can describe it now", retry_after=1)
            raise refused(missing) from error


Info = strawberry.Info[Context, None]


def refused(error: GatewayError) -> GraphQLError:
    """An error of one field; the other fields of the operation are answered."""
    return GraphQLError(error.message, extensions=extensions(error))


@strawberry.type
class Worker:
    """A process that answers."""

    id: strawberry.ID
    state: str = strawberry.field(description="READY, or why not")


@strawberry.type
class Tensor:
    """An input or output, as the Open Inference Protocol names it."""

    name: str
    datatype: str
    shape: list[int] = strawberry.field(description="-1 for a dimension of any size")


@strawberry.type
class Model:
    """A version of a model."""

    name: str
    version: str
    default: bool = strawberry.field(description="Whether it answers requests that name no version")
    ready: bool = strawberry.field(description="Whether a worker is ready whose golden answers were equal")
    workers: list[Worker]
    pending: int = strawberry.field(description="Requests that wait")

    @strawberry.field
    async def task(self, info: Info) -> str | None:
        """What it was trained for."""
        return _text((await self._described(info)).get("task"))

    @strawberry.field
    async def inputs(self, info: Info) -> list[Tensor] | None:
        """Of the Open Inference Protocol."""
        return _tensors(await self._described(info), "inputs")

    @strawberry.field
    async def outputs(self, info: Info) -> list[Tensor] | None:
        """Of the Open Inference Protocol."""
        return _tensors(await self._described(info), "outputs")

    @strawberry.field
    async def labels(self, info: Info) -> list[str] | None:
        """Of a classification, in the order of its probabilities."""
        return (await self._described(info)).get("labels")

    @strawberry.field
    async def description(self, info: Info) -> JSON | None:
        """All that the model says of itself: limits, columns, measures, variants."""
        return JSON(await self._described(info))

    async def _described(self, info: Info) -> Mapping[str, Any]:
        return await info.context.describe(self.name, self.version)


@strawberry.interface
class Answer:
    """The answer to one item; its fields depend on what the model predicts."""

    raw: JSON = strawberry.field(description="The whole answer, or error, as the other protocols give it")


@strawberry.type
class Ranked:
    """A label and its probability."""

    label: str
    index: int
    probability: float


@strawberry.type
class Classification(Answer):
    """One label, or several where each is a decision of its own."""

    label: str
    probability: float
    labels: list[str] | None = strawberry.field(description="Of a multi-label model: those above their threshold")
    ranking: list[Ranked]
    distance: float | None = strawberry.field(description="About 1 for an item like those of training")
    unfamiliar: list[str] | None = strawberry.field(description="Columns outside of what training saw")
    abstained: bool
    reason: str | None


@strawberry.type
class Interval:
    """Contains the truth in a share ``level`` of all cases."""

    low: float
    high: float
    level: float


@strawberry.type
class Regression(Answer):
    """A number, in the unit of the target."""

    value: float
    interval: Interval | None
    unfamiliar: list[str]


@strawberry.type
class ItemError(Answer):
    """Why one item has no answer; the others beside it may have theirs."""

    code: str
    message: str


@strawberry.type
class OtherAnswer(Answer):
    """Of a kind that has no type here: see ``raw``."""


@strawberry.type
class Server:
    """What answered."""

    name: str
    version: str
    bundle: str = strawberry.field(description="The digest that identifies the weights and all that decides an answer")
    variant: str
    reason: str = strawberry.field(description="Why this variant")


@strawberry.type
class Predictions:
    """The answers to the items of one request, in their order."""

    model: Server
    answers: list[Answer]


@strawberry.input(one_of=True, description="Exactly one of its fields")
class Item:
    """One thing to predict for."""

    image: strawberry.Maybe[str] = strawberry.field(description="An image file in base64")
    row: strawberry.Maybe[JSON] = strawberry.field(
        description="A row of a table: an object of columns, or a list of cells in the order of the columns"
    )


ANSWERS = (Classification, Regression, ItemError, OtherAnswer)
"""The types behind the interface."""


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _tensors(description: Mapping[str, Any], side: str) -> list[Tensor] | None:
    tensors = description.get("tensors")
    if tensors is None:
        return None
    return [Tensor(name=one["name"], datatype=one["datatype"], shape=list(one["shape"])) for one in tensors[side]]
