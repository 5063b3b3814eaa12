"""``--help`` of the commands that take a run's whole configuration: the settings changed most often, and all by part.

``--help PART`` explains the settings of one part, ``--help all`` every one. The texts are the docstrings of the fields,
as in the help of every other command.
"""

import ast
import dataclasses
import itertools
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tyro

from marquee import hints
from marquee.commands.cli import task_default, with_program_name
from marquee.training.core.config import RunConfig

_POSITIONAL = typing.get_args(tyro.conf.Positional[Path])[1]
_INDENT = 26


def show_help_if_asked(verb: str, arguments: type, description: str | None) -> None:
    """Prints the help and ends the process if the command line asks for it.

    Args:
        verb: the verb of the command.
        arguments: the command's dataclass; the field that holds the RunConfig is left out, since its parts are listed.
        description: the command's module docstring.
    """
    position = next((i for i, word in enumerate(sys.argv) if word in ("-h", "--help")), None)
    if position is None:
        return
    topic, config = next(iter(sys.argv[position + 1 :]), ""), task_default()
    parts = {part.name: type(getattr(config, part.name)) for part in dataclasses.fields(config)}
    if topic == "all" or topic in parts:
        print("\n\n".join(_part(name, parts[name]) for name in (parts if topic == "all" else [topic])))
    else:
        print(_overview(verb, arguments, description, parts, config))
    sys.exit(0)


def _overview(verb: str, arguments: type, description: str | None, parts: dict[str, type], config: RunConfig) -> str:
    program = hints.program(verb)
    lines = [f"usage: {program} OPTION ... [--PART.SETTING VALUE ...]", "", with_program_name(description).strip(), ""]
    lines += _settings(arguments, "")
    lines += ["", "Changed most often:"]
    short = {setting: option for option, setting in config.short_options.items()}
    for setting in config.changed_most:
        part, name = setting.split(".")
        lines += _settings(parts[part], f"{part}.", only=name, flags=short)
    lines += ["", f"All settings, by part ({program} --help PART explains them, --help all every one):"]
    for part, kind in parts.items():
        names = " ".join(field.name.replace("_", "-") for field in dataclasses.fields(kind))
        lines += _wrap(f"  --{part}.", names)
    return "\n".join(lines)


def _part(name: str, kind: type) -> str:
    summary = (kind.__doc__ or "").strip().partition("\n")[0]
    return "\n".join([f"{name}: {summary}", *_settings(kind, f"{name}.")])


def _settings(
    kind: type, prefix: str, only: str | None = None, flags: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    texts, types = field_texts(kind), typing.get_type_hints(kind, include_extras=True)
    lines = []
    for field in dataclasses.fields(kind):
        extras: tuple[Any, ...] = getattr(types[field.name], "__metadata__", ())
        plain = types[field.name].__origin__ if extras else types[field.name]
        if only not in (None, field.name) or (isinstance(plain, type) and issubclass(plain, RunConfig)):
            continue
        if dataclasses.is_dataclass(plain):  # tyro shows its fields as if they were the command's own
            lines += _settings(plain, prefix)  # type: ignore[arg-type]
            continue
        renamed = next((extra.name for extra in extras if getattr(extra, "name", None)), field.name)
        flag = flags.get(f"{prefix}{renamed}", f"{prefix}{renamed.replace('_', '-')}")
        head = f"  {renamed.upper()}" if _POSITIONAL in extras else f"  --{flag}{_values(plain)}"
        default = _default(field, flag)
        lines += _wrap(head, f"{texts.get(field.name, '')}{f' ({default})' if default else ''}")
    return lines


def _values(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return f" {'|'.join(map(str, typing.get_args(kind)))}"
    if typing.get_origin(kind) in (tuple, dict):
        return " NAME ..." if typing.get_origin(kind) is tuple else " NAME VALUE ..."
    inner = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    kind = inner[0] if inner else kind
    return "" if kind is bool else {Path: " PATH", int: " N", float: " X"}.get(kind, " NAME")


def _default(field: dataclasses.Field[Any], flag: str) -> str:
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else ""
    if field.default is None or field.default is False or field.default in ("", ()):
        return ""
    if field.default is True:
        part, _, name = flag.rpartition(".")
        return f"on; --{f'{part}.' if part else ''}no-{name} switches it off"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _wrap(head: str, text: str) -> list[str]:
    """``head`` with ``text`` in a column to its right, or below it if the head is too long."""
    columns = max(60, min(100, shutil.get_terminal_size().columns))
    body = textwrap.wrap(text, columns - _INDENT, break_on_hyphens=False) or [""]
    space = " " * _INDENT
    if len(head) >= _INDENT:
        return [head, *(space + line for line in body)]
    return [f"{head:{_INDENT}s}{body[0]}", *(space + line for line in body[1:])]


def field_texts(kind: type) -> dict[str, str]:
    """Field -> its docstring, on one line, without markup; including inherited fields."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if dataclasses.is_dataclass(owner):
            texts |= _texts_in(owner)
    return texts


def _texts_in(kind: type) -> dict[str, str]:
    """The docstrings of the fields that a class itself defines."""
    source = Path(sys.modules[kind.__module__].__file__ or "").read_text("utf-8")
    body = next(
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    texts = {}
    for node, following in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(following, ast.Expr):
            text = " ".join(str(ast.literal_eval(following.value)).split())
            texts[node.target.id] = re.sub(r"``(.+?)``", r"\1", re.sub(r" ?\(see :\w+:`[^`]+`\)", "", text))
    return texts
