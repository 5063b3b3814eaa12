"""What a GraphQL document may cost before it is run.

Strawberry's limiters bound tokens, depth and aliases. They walk into a fragment wherever it is spread, so a few
fragments that spread each other would keep them busy for ever; the size of a document with its fragments in place is
therefore bounded first, in one pass.
"""

from collections import Counter
from collections.abc import Iterator

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    OperationDefinitionNode,
    SelectionSetNode,
)
from strawberry.extensions import MaxAliasesLimiter, MaxTokensLimiter, QueryDepthLimiter, SchemaExtension

MAX_CHARACTERS = 20_000
"""Of a query's text; images are sent as variables."""
MAX_TOKENS = 1_000
MAX_DEPTH = 6
"""Of nested fields, introspection apart, whose depth graphql-core limits."""
MAX_ALIASES = 4
"""Each may be one more prediction."""
MAX_FIELDS = 400
"""With every fragment in the places where it is spread; the introspection query of clients has some 250."""
MAX_REPEATED = 20
"""Fields of one name in one selection: validation compares each with each."""


class DocumentLimiter(SchemaExtension):
    """Refuses a document that grows too large when its fragments are put in place; comes before all rules."""

    def on_validate(self) -> Iterator[None]:
        """Raises GraphQLError."""
        document = self.execution_context.graphql_document
        if document is not None:
            check_fields(document)
            # Strawberry would run the first one.
            operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
            if len(operations) > 1 and self.execution_context.context.operation is None:
                raise GraphQLError("there are several operations: name one as operationName")
        yield


def tokens_limiter() -> SchemaExtension:
    """Strawberry's."""
    return MaxTokensLimiter(max_token_count=MAX_TOKENS)


def depth_limiter() -> SchemaExtension:
    """Strawberry's."""
    return QueryDepthLimiter(max_depth=MAX_DEPTH)


def aliases_limiter() -> SchemaExtension:
    """Strawberry's."""
    return MaxAliasesLimiter(max_alias_count=MAX_ALIASES)


LIMITERS = (tokens_limiter, DocumentLimiter, depth_limiter, aliases_limiter)
"""One of each for every operation, whose state they hold."""


def check_fields(document: DocumentNode) -> None:
    """Each selection is visited once, however often its fragment is spread.

    Args:
        document: parsed, of any validity.

    Raises:
        GraphQLError: it is too large, or a fragment contains itself.
    """
    counter = _Counter(document)
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            fields = counter.fields(definition.selection_set)
            if fields > MAX_FIELDS:
                raise GraphQLError(f"the operation selects more than {MAX_FIELDS} fields")


class _Counter:
    """Counts the fields of selections, with fragments in place."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._known: dict[str, int] = {}
        self._open: set[str] = set()

    def fields(self, selected: SelectionSetNode | None) -> int:
        total = 0
        names: Counter[str] = Counter()
        for node in selected.selections if selected is not None else ():
            if isinstance(node, FragmentSpreadNode):
                total += self._of_fragment(node.name.value)
                continue
            if isinstance(node, FieldNode):
                total += 1
                names[(node.alias or node.name).value] += 1
            total += self.fields(getattr(node, "selection_set", None))
        if names and max(names.values()) > MAX_REPEATED:
            raise GraphQLError(f"a field is selected more than {MAX_REPEATED} times in one place")
        # Beyond the limit the exact number does not matter, and it may be a very long one.
        return min(total, MAX_FIELDS + 1)

    def _of_fragment(self, name: str) -> int:
        if name in self._open:
            raise GraphQLError("a fragment contains itself")
        if name not in self._known and name in self._fragments:
            self._open.add(name)
            self._known[name] = self.fields(self._fragments[name].selection_set)
            self._open.discard(name)
        return self._known.get(name, 0)
