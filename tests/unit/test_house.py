"""The architecture, as rules that run."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from marquee.handlers.inputs.image import decode as images
from marquee.handlers.inputs.image import geometry
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.data import loading
from tests.conftest import ROOT

ROOMS = {"handlers": ROOT, "training": ROOT, "serving": ROOT, "gateway": ROOT, "commands": ROOT / "src" / "marquee"}
MODULES = {
    path.relative_to(parent).as_posix(): ast.parse(path.read_text("utf-8"))
    for room, parent in ROOMS.items()
    for path in sorted((parent / room).rglob("*.py"))
}
ALLOWED = {
    "handlers": {"handlers"},
    "training": {"hints", "child", "locks", "rounds", "handlers", "training"},
    "serving": {"hints", "child", "locks", "process_start", "rounds", "handlers", "serving"},
    "gateway": {"hints", "child", "locks", "process_start", "handlers", "serving", "gateway"},
    "commands": {"hints", "log", "locks", "handlers", "training", "serving", "gateway", "commands"},
}
# What a server has. An engine may need more, in its own file.
SERVER_LIBRARIES = {"numpy", "PIL", "torch", "torchvision"}
OWN_LIBRARIES = {
    "handlers/core/json_text.py": {"orjson"},  # where it is installed
    "handlers/core/repeated_parts.py": {"ts"},
    "handlers/core/engines/openvino.py": {"openvino"},
    "handlers/core/engines/openvino_core.py": {"openvino"},
    # Everything else of the package is imported by every worker, with Captum or without.
    "handlers/explain/methods.py": {"captum"},
    "handlers/inputs/image/heic.py": {"pillow_heif"},  # where it is installed
    "handlers/explain/early.py": {"ts"},
    "handlers/inputs/table/parquet.py": {"pyarrow"},
}


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Level and dotted name of everything that a module imports, wherever in it; level 0 is absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "marquee":
                yield from ((0, f"marquee.{alias.name}") for alias in node.names)
            else:
                yield node.level, node.module or ""


def test_imports_run_one_way():
    offenders = []
    for name, tree in MODULES.items():
        room = name.split("/")[0]
        for level, module in imports(tree):
            top, _, rest = module.partition(".")
            # A package that travels does not know its own name, and nothing else needs to be relative.
            if level and room != "handlers":
                offenders.append(f"{name}: relative import of {module}")
            if not level and top in {*ROOMS, "scripts", "tests", "benchmarks"}:
                offenders.append(f"{name}: {module} is not imported under the name marquee")
            if top == "marquee" and (room == "handlers" or rest.split(".")[0] not in ALLOWED[room]):
                offenders.append(f"{name}: {module}")
    assert offenders == []


def test_handlers_need_nothing_that_a_server_has_not():
    offenders = [
        f"{name}: {module}"
        for name, tree in MODULES.items()
        if name.startswith("handlers/")
        for level, module in imports(tree)
        if not level
        and module.split(".")[0] not in SERVER_LIBRARIES | set(sys.stdlib_module_names) | OWN_LIBRARIES.get(name, set())
    ]
    assert offenders == []


def test_the_wheels_name_leads_to_the_rooms():
    """Tools, tests and the editable install see the files at the top under the name that the wheel gives them."""
    import marquee

    for room in ("handlers", "training", "serving", "gateway"):
        module = importlib.import_module(f"marquee.{room}")
        assert Path(module.__file__).resolve().parent == ROOT / room
        assert room not in sys.modules
    assert Path(marquee.__file__) == ROOT / "src" / "marquee" / "__init__.py"


# Each of these turns bytes or pixels of another size into pixels: a second preprocessing.
FORBIDDEN_CALLS = {
    "Image.open",
    "resize",
    "thumbnail",
    "decode_image",
    "decode_jpeg",
    "read_image",
    "imread",
    "imdecode",
    "center_crop",
    "CenterCrop",
    "Resize",
    "interpolate",
    "default_loader",
    "ImageFolder",
    "create_transform",
    "ImageOps.fit",
    "ImageOps.pad",
    "ImageOps.contain",
    "draft",
}
ALLOWED_CALLS = {
    # The project's own reader, which calls decode.
    ("training/tasks/image_classification/data/loading.py", "read_image"),
    ("training/tasks/image_classification/data/cache.py", "read_image"),
    ("training/tasks/image_classification/data/normalisation.py", "read_image"),
    # Of training batches that are prepared already: a kind of augmentation.
    ("training/tasks/image_classification/data/resizing.py", "resize"),
    # Of a heat map, not of an image.
    ("handlers/explain/methods.py", "interpolate"),
}
DECODER = "handlers/inputs/image/"
READER = "handlers/inputs/image/reader.py"
"""Beside the decoder, which it calls."""


def is_decoder(name: str) -> bool:
    return name.startswith(DECODER) and name != READER


def test_there_is_one_preprocessing():
    """Fails as soon as anything but the decoder opens or resizes an image."""
    offenders = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not is_decoder(name):
                called = ast.unparse(node.func)
                offenders += [
                    f"{name}:{node.lineno} calls {called}"
                    for forbidden in FORBIDDEN_CALLS
                    if (called == forbidden or called.endswith(f".{forbidden}"))
                    and (name, forbidden) not in ALLOWED_CALLS
                ]
    assert offenders == []


# Who may touch a library that can decode or resize, and what of it.
IMAGE_LIBRARIES = {"PIL", "cv2", "imageio", "skimage", "simplejpeg", "turbojpeg", "torchvision"}
ALLOWED_IMAGE_IMPORTS = {
    "handlers/explain/picture.py": {"from PIL import Image"},  # writes PNG files
    "handlers/inputs/image/reader.py": {"from PIL import Image"},  # for annotations
    "training/tasks/image_classification/data/augment.py": {
        "from PIL import Image",
        "from torchvision.transforms import InterpolationMode, v2",
        "from torchvision.transforms import v2",
    },
    "training/tasks/image_classification/data/cache.py": {"from PIL import Image"},  # for what the cache holds
    "training/tasks/image_classification/data/digits.py": {"from PIL import Image"},  # writes files
    "training/tasks/image_classification/data/loading.py": {"from PIL import Image"},  # for annotations
    "training/tasks/image_classification/data/mixing.py": {"from torchvision.transforms import v2"},
    "training/tasks/image_classification/data/resizing.py": {"from torchvision.transforms.v2 import functional"},
    "training/importing/torch_weights.py": {"import torchvision.models"},  # architectures without weights
    # Writes thumbnails of prepared pixels.
    "training/tasks/image_classification/report/pictures.py": {"from PIL import Image"},
}
ALLOWED_IMAGE_NAMES = {"Image.Image", "Image.fromarray"}
ALLOWED_TRANSFORMS = {
    "v2.Compose",
    "v2.CutMix",
    "v2.Identity",
    "v2.MixUp",
    "v2.RandAugment",
    "v2.RandomCrop",
    "v2.Transform",
    "v2.TrivialAugmentWide",
    "v2.ColorJitter",
    "v2.RandomAffine",
    "v2.RandomErasing",
    "v2.RandomHorizontalFlip",
    "v2.RandomResizedCrop",
    "v2.RandomVerticalFlip",
    "v2.functional",
    "v2.functional.pil_to_tensor",
}


def test_image_libraries_are_kept_in_their_rooms():
    """The rule above reads names of calls; this one leaves no other name to call them by."""
    offenders = []
    for name, tree in MODULES.items():
        if not is_decoder(name):
            offenders += [f"{name}: {found}" for found in foreign_image_names(name, tree)]
    assert offenders == []


def foreign_image_names(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {module.split(".")[0] for module in modules} & IMAGE_LIBRARIES:
                text = ast.unparse(node)
                if text not in ALLOWED_IMAGE_IMPORTS.get(name, set()):
                    yield text
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if re.fullmatch(r"Image\.\w+", dotted) and dotted not in ALLOWED_IMAGE_NAMES:
                yield f"line {node.lineno} uses {dotted}"
            if re.fullmatch(r"v2\.[\w.]+", dotted) and dotted not in ALLOWED_TRANSFORMS:
                yield f"line {node.lineno} uses {dotted}"


# What any task may be about, and the shared rooms are not. Prometheus calls the names of a series labels; what was
# measured of a variant, and the state of a checkpoint, have the names under which earlier versions stored them.
CORES = ("handlers/core/", "training/core/")
WORDS_OF_A_TASK = re.compile(r"image|label|pixel", re.IGNORECASE)
ALLOWED_WORDS = {
    "handlers/core/counters.py": {"label"},
    "handlers/core/metrics_emitter.py": {"label"},
    "handlers/core/service_metrics.py": {"label"},
    "handlers/core/accuracy.py": {"image"},
    "handlers/core/measurement.py": {"image"},
    "training/core/checkpoint.py": {"image"},
}
TASK_LIBRARIES = {"PIL", "timm", "torchvision"}


def words_of(node: ast.AST) -> str:
    """What a node of a module's tree is called, or says."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    names = (getattr(node, name, None) for name in ("id", "attr", "arg", "name", "module"))
    return " ".join(name for name in names if isinstance(name, str))


def words_of_a_task(name: str, tree: ast.Module) -> Iterator[str]:
    """Where a shared module is about one kind of data or answer; docstrings may give examples."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    texts = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
    for node in ast.walk(tree):
        found = {word.lower() for word in WORDS_OF_A_TASK.findall(words_of(node))} if id(node) not in texts else set()
        if found - ALLOWED_WORDS.get(name, set()):
            yield f"{name}:{node.lineno}: {words_of(node)}"


def test_the_core_knows_no_task():
    cores = {name: tree for name, tree in MODULES.items() if name.startswith(CORES)}
    assert len(cores) > 40
    assert [line for name, tree in cores.items() for line in words_of_a_task(name, tree)] == []
    imported = [(name, module) for name, tree in cores.items() for _, module in imports(tree)]
    # Optimisers, and averages of weights, are for any network.
    libraries = [
        pair
        for pair in imported
        if pair[1].split(".")[0] in TASK_LIBRARIES and pair[1] not in ("timm.optim", "timm.utils")
    ]
    rooms = ("marquee.training.tasks.", "marquee.training.optimize", "marquee.training.tools")
    assert libraries + [pair for pair in imported if pair[1].startswith(rooms)] == []


def test_one_task_is_not_asked_for_in_another():
    """Several labels are told from one by a class, and that a configuration is of this or that task by its property."""
    offenders = [
        f"{name}:{node.lineno}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "multi_label"
    ]
    assert {line.partition(":")[0] for line in offenders} == {"training/tasks/image_classification/config.py"}


def test_workarounds_name_the_versions_that_they_are_for():
    """A new version of the library fails here: try without the workaround, then name the version or remove the file."""
    names = [name for name in MODULES if name.startswith("training/workarounds/") and "__init__" not in name]
    assert len(names) >= 2
    for name in names:
        module = importlib.import_module("marquee." + name.removesuffix(".py").replace("/", "."))
        assert module.SEEN_WITH, name
        for library, seen in module.SEEN_WITH.items():
            installed = version(library)
            assert installed.startswith(f"{seen}."), f"{name}: seen with {library} {seen}, installed is {installed}"


MOST_ARGUMENTS = 8


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without ``self`` and ``cls``."""
    given = function.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def functions_with_many_arguments(name: str, tree: ast.Module) -> Iterator[str]:
    """But for commands, whose arguments are their flags."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        is_command = name.startswith("commands/") and not node.name.startswith("_")
        if arguments_of(node) > MOST_ARGUMENTS and not is_command:
            yield f"{name}:{node.lineno}: {node.name}: {arguments_of(node)} arguments"


def test_no_function_takes_many_arguments():
    assert [line for name, tree in MODULES.items() for line in functions_with_many_arguments(name, tree)] == []


RUN_FILES = {
    path.name
    for name, value in vars(RunFolder).items()
    if isinstance(value, property) and isinstance(path := getattr(RunFolder(Path("run")), name), Path)
} - {"bundle", "cache"}  # words that mean other things, too


def names_of_run_files(name: str, tree: ast.Module) -> Iterator[str]:
    """Where a file of a run is named by a literal, in place of :class:`RunFolder`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            is_owner = name == "training/core/run_folder.py"
            if node.right.value in RUN_FILES and not is_owner:
                yield f"{name}:{node.lineno}: {node.right.value}"


def test_the_files_of_a_run_are_named_in_one_place():
    assert len(RUN_FILES) > 10
    # Serving does not import training; a hint of its own tells a run that is not finished from a bundle.
    found = [line for name, tree in MODULES.items() for line in names_of_run_files(name, tree)]
    assert [line.partition(":")[0] for line in found] == ["serving/archive.py"]


def test_the_rules_notice_an_offender():
    """Each of the rules above, on a line that breaks it."""
    assert list(foreign_image_names("training/x.py", ast.parse("import cv2"))) == ["import cv2"]
    assert list(foreign_image_names("training/x.py", ast.parse("Image.open(f)"))) == ["line 1 uses Image.open"]
    many = ast.parse("class A:\n    def f(self, a, b, c, d, *, e, f, g, h, i): ...")
    assert list(functions_with_many_arguments("training/x.py", many)) == ["training/x.py:2: f: 9 arguments"]
    assert list(functions_with_many_arguments("commands/x.py", many)) == []
    task = ast.parse('def f(pixels): return {"a": 1}["label"]\nclass A:\n    """Of images."""')
    assert list(words_of_a_task("training/core/x.py", task)) == [
        "training/core/x.py:1: pixels",
        "training/core/x.py:1: label",
    ]
    own = ast.parse("out / 'rejected.csv'")
    assert list(names_of_run_files("training/x.py", own)) == ["training/x.py:1: rejected.csv"]
    assert list(imports(ast.parse("from marquee import serving"))) == [(0, "marquee.serving")]
    assert list(imports(ast.parse("from .spec import x"))) == [(1, "spec")]


def test_training_evaluates_with_the_served_functions(digits):
    from marquee.training.tasks.image_classification.data.manifest import Record

    assert loading.decode is images.decode
    assert loading.prepare is images.prepare
    spec = ImageSpec(channels=1, resize=36, crop=32)
    path = next((digits / "test" / "3").glob("*.png"))
    evaluated = loading.EvaluationImages([Record(str(path), "3", "test")], loading.TargetEncoder(["3"]), spec)
    pixels, label = evaluated[0]
    assert label == 0
    assert np.array_equal(pixels.numpy(), images.load(path.read_bytes(), spec))


def test_a_change_of_the_served_preprocessing_reaches_evaluation(digits, monkeypatch):
    """The dynamic twin of the rule above: evaluation has no pixels but those of images."""
    from marquee.training.tasks.image_classification.data.manifest import Record

    spec = ImageSpec(channels=1, resize=32, crop=32)
    path = next((digits / "test" / "3").glob("*.png"))
    before = images.load(path.read_bytes(), spec)
    monkeypatch.setitem(geometry.RESAMPLING, "bilinear", images.Image.Resampling.NEAREST)
    evaluated = loading.EvaluationImages([Record(str(path), "3", "test")], loading.TargetEncoder(["3"]), spec)
    assert not np.array_equal(before, evaluated[0][0].numpy())
