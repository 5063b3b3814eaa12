"""The expressions in a ``.pt2``, which torch evaluates as Python: arithmetic on sizes, and nothing else."""

import ast
import re
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIZES = _words(
    "Symbol Integer Float Rational Mul Add Pow Max Min Mod Abs Eq Ne Equality Unequality StrictGreaterThan GreaterThan "
    "StrictLessThan LessThan And Or Not floor ceiling FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt "
    "FloorToInt CeilDiv PowByNatural FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt "
    "RoundToInt RoundDecimal ToFloat Identity true false oo int_oo"
)
"""What the expression of a size may name, as torch writes and reads it."""
_GUARDS = _words("L max min abs round int float math torch inf")
"""What a condition on the inputs may name."""
_OF_MODULES = {
    "math": _words("trunc floor ceil sqrt isnan inf"),
    "torch": _words("sym_float sym_int sym_max sym_min sym_ite sym_not sym_sum _sym_sqrt"),
}
_OF_INPUTS = _words("size stride storage_offset")

_CALLS = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant)
_LOGIC = (ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.USub, ast.Not)
_SUMS = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_ARITHMETIC = (*_CALLS, *_LOGIC, *_SUMS)
_INDEXING = (*_ARITHMETIC, ast.Subscript, ast.Attribute, ast.Tuple)
_POWERS, _MOST_POWER = ("Pow", "PowByNatural"), 16
_MOST_CHARACTERS = 10_000
_TEXT = re.compile(r"[A-Za-z_]\w*|[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.ASCII)


def check_size(text: str) -> None:
    """Raises ValueError for anything but the expression of a size, such as ``Mul(Integer(4), Symbol('s77'))``."""
    _check(text, _SIZES, _ARITHMETIC)


def check_guard(text: str) -> None:
    """Raises ValueError for anything but a condition on inputs, such as ``L['x'].size()[0] == L['y'].size()[0]``."""
    _check(text, _GUARDS, _INDEXING)


def _check(text: str, names: frozenset[str], nodes: tuple[type[ast.AST], ...]) -> None:
    refused = ValueError(f"the graph has an expression that is not about sizes: {text!r:.100}")
    if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
        raise refused
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise refused from error
    for node in ast.walk(tree):
        if not isinstance(node, nodes) or not _is_allowed(node, names):
            raise refused


def _is_allowed(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether a node, without what is below it, belongs to arithmetic on sizes."""
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Constant):
        return _is_plain(node.value)
    if isinstance(node, ast.Attribute):
        module = node.value.id if isinstance(node.value, ast.Name) else ""
        return node.attr in _OF_MODULES.get(module, _OF_INPUTS)
    if isinstance(node, ast.Call):
        return isinstance(node.func, (ast.Name, ast.Attribute)) and not _is_high_power(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _is_small(node.right)
    return True


def _is_plain(value: Any) -> bool:
    """Whether a constant is a number of a usual size, or a text that is a number or a name."""
    if isinstance(value, str):
        return _TEXT.fullmatch(value) is not None
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 1 << 64)


def _is_high_power(call: ast.Call) -> bool:
    """Whether computing it could take forever."""
    is_power = isinstance(call.func, ast.Name) and call.func.id in _POWERS
    return is_power and not (len(call.args) == 2 and _is_small(call.args[1]))


def _is_small(node: ast.expr) -> bool:
    """Whether an exponent is a small whole number, written out."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and node.args:
        node = node.args[0]
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value <= _MOST_POWER
