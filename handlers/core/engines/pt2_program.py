"""The graph inside a ``.pt2``, read before torch makes Python code of it.

Loading makes source code of its names, evaluates its expressions, and calls what it says is an operator: with names and
calls of its choice, a graph is any program in Python. Allowed here is what the export of a network writes: operators of
torch's registries, names that are names, and arithmetic on sizes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch

from .pt2_expression import check_guard, check_size

_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.(\w+)\.(\w+)")
_READS_FILES = {"from_file"}
_SYMBOLIC = {
    "_operator": "eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_ lshift rshift getitem",
    "math": "trunc ceil floor sqrt",
    "torch": "sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt sym_sum",
    # What torch.no_grad, torch.autocast, torch.cond and their like become; their bodies are graphs of the same kind.
    "torch.ops.higher_order": "wrap_with_set_grad_enabled wrap_with_autocast cond while_loop map_impl scan "
    "associative_scan",
    "torch._functorch.predispatch": "lazy_load_decompositions _vmap_increment_nesting _vmap_decrement_nesting "
    "_add_batch_dim _remove_batch_dim",
}
_KNOWN = {f"{module}.{name}" for module, names in _SYMBOLIC.items() for name in names.split()}

_PATH = re.compile(r"[^\"'\\\x00-\x1f\x7f]*")
_NAMES = {"name", "as_name", "forward_arg_names"}
_NAMED = {f"{kind}_values" for kind in ("tensor", "sym_int", "sym_bool", "sym_float", "custom_obj")}
_PATHS = {f"{kind}_name" for kind in ("parameter", "buffer", "tensor_constant", "custom_obj", "user_input")} | {"fqn"}
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def check_program(document: Mapping[str, Any]) -> None:
    """Refuses a graph that would run anything but operators of torch's.

    Args:
        document: the parsed ``models/model.json``.

    Raises:
        ValueError: what is refused, and why.
    """
    _check_value("", document)
    for guard in document.get("guards_code", []):
        check_guard(guard)


def _check_value(key: str, value: Any) -> None:
    """Checks what lies under ``key``, at any depth."""
    if isinstance(value, Mapping):
        for name in value:
            if key in _NAMED or key == "range_constraints":
                _check_identifier(name)
        for name, item in value.items():
            _check_value(name, item)
    elif isinstance(value, list):
        for item in value:
            _check_value(key, item)
    elif isinstance(value, str):
        _check_text(key, value)


def _check_text(key: str, text: str) -> None:
    """Checks one string, by what torch does with those under ``key``; others it keeps as they are."""
    if key in ("target", "as_operator"):
        _check_operator(text)
    elif key == "expr_str":
        check_size(text)
    elif key in ("in_spec", "out_spec"):
        _check_container(json.loads(text)[1])
    elif key in _NAMES and text:
        _check_identifier(text)
    elif key in _PATHS and not _PATH.fullmatch(text):
        raise ValueError(f"the graph names a part of the network {text!r:.100}")


def _check_identifier(name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"the graph has the name {name!r:.100}, which would become code")


def _check_operator(name: str) -> None:
    """Refuses a call of anything but an operator in one of torch's registries, or arithmetic on sizes."""
    if name in _KNOWN:
        return
    if found := _OPERATOR.fullmatch(name):
        namespace, operator, overload = found.groups()
        packet = getattr(getattr(torch.ops, namespace), operator, None)
        if isinstance(getattr(packet, overload, None), torch._ops.OpOverload) and operator not in _READS_FILES:
            return
    raise ValueError(f"the graph calls {name!r:.100}, which is no operator that an exported network has here")


def _check_container(tree: Mapping[str, Any]) -> None:
    """Refuses inputs and outputs in containers of other types than Python's own, which torch would import."""
    kind, context = tree["type"], tree["context"]
    keys = [] if context is None else json.loads(context)
    if kind is not None and kind not in _CONTAINERS:
        raise ValueError(f"the graph has inputs or outputs in a container of type {kind!r:.100}")
    if keys is not None and not (isinstance(keys, list) and all(isinstance(item, str) for item in keys)):
        raise ValueError(f"the graph has inputs or outputs in a container with {context!r:.100}")
    for item in keys or ():
        _check_identifier(item)
    for child in tree["children_spec"]:
        _check_container(child)
