"""What the commands import: a library that takes seconds to import is imported by what uses it, and not before."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

from tests.conftest import ROOT

COMMANDS = ROOT / "src" / "marquee" / "commands"
TRAINING = {
    "captum", "matplotlib", "nncf", "openvino", "pandas", "pyarrow", "scipy.optimize", "scipy.stats", "sklearn",
    "tensorboard", "timm", "torch._dynamo", "torch._inductor", "torch_pruning", "torchvision",
}  # fmt: skip
"""Takes more time to import than PyTorch, all in all."""
HEAVY = TRAINING | {"torch"}


def imported(command: str) -> set[str]:
    """The package's modules that a command names, in whichever function; those that only type checkers see left out."""
    tree = ast.parse((COMMANDS / f"{command}.py").read_text("utf-8"))
    return {module for node in statements(tree) if (module := module_of(node)) is not None} | {
        f"marquee.commands.{command}"
    }


def statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from statements(child)


def module_of(node: ast.AST) -> str | None:
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("marquee"):
        return None
    inner = f"{node.module}.{node.names[0].name}"
    return inner if (ROOT / "src" / f"{inner.replace('.', '/')}.py").is_file() else node.module


def loaded(*parts: set[str]) -> list[set[str]]:
    """Which of HEAVY a fresh process holds after it has imported each of these, one after the other."""
    code = (
        "import importlib, json, sys\n"
        "found = []\n"
        f"for part in {[sorted(part) for part in parts]!r}:\n"
        "    for name in part: importlib.import_module(name)\n"
        f"    found.append([name for name in {sorted(HEAVY)!r} if name in sys.modules])\n"
        "print(json.dumps(found))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return [set(found) for found in json.loads(child.stdout.splitlines()[-1])]


def test_serving_needs_no_torch():
    modules = set().union(*(imported(command) for command in ("package", "serve", "predict", "models")))
    assert "marquee.serving.server" in modules
    assert loaded(modules) == [set()]


def test_training_imports_torch_and_nothing_else_that_is_heavy():
    commands = ("train", "find_lr", "find_batch_size", "evaluate", "optimize", "select_model", "import_model", "tune")
    modules = set().union(*(imported(command) for command in commands))
    report = {"marquee.training.tasks.image_classification.report"}  # drawn at the end, by matplotlib
    assert "marquee.training.core.run" in modules
    found, with_report = loaded(modules - report, report)
    assert found == {"torch"}
    assert with_report >= {"torch", "matplotlib"}, "the check does not notice an offender"
