"""Reads JSON-like data into typed dataclasses; every error names the field by its dotted path.

Deliberately small and free of dependencies: it runs inside the server. Supported annotations: ``str``, ``int``,
``float``, ``bool``, ``Any``, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``list[X]``, ``dict[str, X]``, dataclasses
of these, and :class:`Tagged`.
"""

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class SchemaError(ValueError):
    """A value does not fit its field; the message starts with the field's dotted path."""


class Tagged:
    """Base of dataclasses that are told apart by their field ``kind``: a tagged union that can be added to.

    A field that is annotated with a subclass which is no dataclass itself takes any dataclass of that family.
    """

    @classmethod
    def of_kind(cls, kind: str) -> type[Any]:
        """The dataclass of one kind.

        Raises:
            ValueError: there is no such kind.
        """
        raise NotImplementedError


def from_dict(cls: type[T], data: Any, path: str = "") -> T:
    """Builds the dataclass ``cls`` from ``data``.

    Args:
        cls: a dataclass type.
        data: a mapping with exactly the fields of ``cls``; fields with defaults may be absent.
        path: the dotted path of ``data`` in the whole document, for error messages.

    Raises:
        SchemaError: a field is unknown, missing, of the wrong type, or refused by the dataclass itself.
    """
    if not isinstance(data, dict):
        raise SchemaError(f"{path or 'document'}: expected an object, got {_name(data)}")
    cls = _of_kind(cls, data, path)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{path}." if path else ""
    if unknown := sorted(set(data) - set(fields)):
        raise SchemaError(f"{prefix}{unknown[0]}: unknown field (known: {', '.join(fields)})")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{prefix}{name}: missing")
    try:
        return cls(**values)
    except SchemaError:
        raise
    except ValueError as error:
        # A dataclass's own check names its field; the path says which one of several such parts it is.
        raise SchemaError(f"{prefix}{error}") from error


def _of_kind(cls: type[T], data: dict[str, Any], path: str) -> type[T]:
    """The dataclass that ``data`` is for."""
    if dataclasses.is_dataclass(cls) or not issubclass(cls, Tagged):
        return cls
    prefix = f"{path}." if path else ""
    kind = data.get("kind")
    if not isinstance(kind, str):
        raise SchemaError(f"{prefix}kind: {'missing' if kind is None else f'expected str, got {_name(kind)}'}")
    try:
        return cls.of_kind(kind)
    except ValueError as error:
        raise SchemaError(f"{prefix}{error}") from error


def to_dict(value: Any) -> Any:
    """The inverse of :func:`from_dict`: plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    return value


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise SchemaError(f"{path}: expected one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise SchemaError(f"{path}: expected a list, got {_name(value)}")
        return origin(_convert(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise SchemaError(f"{path}: expected an object, got {_name(value)}")
        return {key: _convert(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, Tagged)):
        return from_dict(kind, value, path)  # type: ignore[arg-type]
    return _convert_scalar(kind, value, path)


def _convert_union(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in choices:
        return None
    errors = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _convert(choice, value, path)
        except SchemaError as error:
            errors.append(error)
    raise errors[0]


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # bool is a subclass of int in Python, yet `true` for a count is a mistake.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SchemaError(f"{path}: expected {kind.__name__}, got {_name(value)}")
    if kind is float and not math.isfinite(value):
        raise SchemaError(f"{path}: expected a finite number, got {value}")
    return value


def _name(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]
