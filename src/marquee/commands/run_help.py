"""``--help`` of the commands that take a run's whole configuration: what people change first, the rest by part.

``--help PART`` explains the settings of one part, ``--help all`` every one. All texts are those under the fields, as in
the help of every other command.
"""

import ast
import dataclasses
import itertools
import re
import shutil
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

import tyro

from marquee import hints
from marquee.commands.cli import where_the_user_is
from marquee.training.config import RunConfig

CHANGED_MOST = (
    "model.arch",
    "model.pretrained",
    "image.size",
    "loop.epochs",
    "loop.batch_size",
    "loop.device",
    "loop.seed",
    "optimizer.lr",
    "augment.horizontal_flip",
    "loss.name",
)
_PARTS = {part.name: type(getattr(RunConfig(), part.name)) for part in dataclasses.fields(RunConfig)}
_POSITIONAL = typing.get_args(tyro.conf.Positional[Path])[1]
_INDENT = 26


def show_help_if_asked(verb: str, arguments: type, description: str | None) -> None:
    """Prints the help and ends the process where the command line asks for it.

    Args:
        verb: of the command.
        arguments: its dataclass; the field that holds a RunConfig is left out, since its parts are listed.
        description: the command's module docstring.
    """
    asked = next((i for i, word in enumerate(sys.argv) if word in ("-h", "--help")), None)
    if asked is None:
        return
    topic = next(iter(sys.argv[asked + 1 :]), "")
    if topic == "all" or topic in _PARTS:
        print("\n\n".join(_part(name) for name in (_PARTS if topic == "all" else [topic])))
    else:
        print(_overview(verb, arguments, description))
    sys.exit(0)


def _overview(verb: str, arguments: type, description: str | None) -> str:
    program = hints.program(verb)
    lines = [f"usage: {program} OPTION ... [--PART.SETTING VALUE ...]", "", where_the_user_is(description).strip(), ""]
    lines += _settings(arguments, "")
    lines += ["", "What people change most:"]
    for setting in CHANGED_MOST:
        part, name = setting.split(".")
        lines += _settings(_PARTS[part], f"{part}.", only=name)
    lines += ["", f"All settings, by part ({program} --help PART explains them, --help all every one):"]
    for part, kind in _PARTS.items():
        names = " ".join(field.name.replace("_", "-") for field in dataclasses.fields(kind))
        lines += _wrap(f"  --{part}.", names)
    return "\n".join(lines)


def _part(name: str) -> str:
    about = (_PARTS[name].__doc__ or "").strip().partition("\n")[0]
    return "\n".join([f"{name}: {about}", *_settings(_PARTS[name], f"{name}.")])


def _settings(kind: type, prefix: str, only: str | None = None) -> list[str]:
    texts, hinted = field_texts(kind), typing.get_type_hints(kind, include_extras=True)
    lines = []
    for field in dataclasses.fields(kind):
        extras: tuple[Any, ...] = getattr(hinted[field.name], "__metadata__", ())
        plain = hinted[field.name].__origin__ if extras else hinted[field.name]
        if only not in (None, field.name) or plain is RunConfig:
            continue
        if dataclasses.is_dataclass(plain):  # tyro shows its fields as if they were the command's own
            lines += _settings(plain, prefix)  # type: ignore[arg-type]
            continue
        renamed = next((extra.name for extra in extras if getattr(extra, "name", None)), field.name)
        flag = f"{prefix}{renamed.replace('_', '-')}"
        head = f"  {renamed.upper()}" if _POSITIONAL in extras else f"  --{flag}{_values(plain)}"
        default = _default(field, flag)
        lines += _wrap(head, f"{texts.get(field.name, '')}{f' ({default})' if default else ''}")
    return lines


def _values(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return f" {'|'.join(map(str, typing.get_args(kind)))}"
    inner = [one for one in typing.get_args(kind) if one is not type(None)]
    kind = inner[0] if inner else kind
    return "" if kind is bool else {Path: " PATH", int: " N", float: " X"}.get(kind, " NAME")


def _default(field: dataclasses.Field[Any], flag: str) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None or field.default is False:
        return ""
    if field.default is True:
        part, _, name = flag.rpartition(".")
        return f"on; --{f'{part}.' if part else ''}no-{name} switches it off"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _wrap(head: str, text: str) -> list[str]:
    """``head`` with ``text`` behind it in a column of its own; below it, where the head is too long."""
    columns = max(60, min(100, shutil.get_terminal_size().columns))
    body = textwrap.wrap(text, columns - _INDENT, break_on_hyphens=False) or [""]
    space = " " * _INDENT
    if len(head) >= _INDENT:
        return [head, *(space + line for line in body)]
    return [f"{head:{_INDENT}s}{body[0]}", *(space + line for line in body[1:])]


def field_texts(kind: type) -> dict[str, str]:
    """Field -> the text under it, on one line, without the markup that is for documentation."""
    source = Path(sys.modules[kind.__module__].__file__ or "").read_text("utf-8")
    body = next(
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    texts = {}
    for node, below in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(below, ast.Expr):
            text = " ".join(str(ast.literal_eval(below.value)).split())
            texts[node.target.id] = re.sub(r"``(.+?)``", r"\1", re.sub(r" ?\(see :\w+:`[^`]+`\)", "", text))
    return texts
