"""The architecture, as rules that run."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import handlers.images
import training.data.loading
from handlers.spec import ImageSpec
from tests.conftest import ROOT

MODULES = sorted(
    path for room in ("handlers", "training", "serving", "scripts") for path in (ROOT / room).rglob("*.py")
)
ALLOWED = {
    "handlers": {"handlers"},
    "training": {"handlers", "training"},
    "serving": {"handlers", "serving"},
    "scripts": {"handlers", "training", "serving", "scripts", "_cli"},
}
# What a server has. An engine may need more, in its own file.
SERVER_LIBRARIES = {"numpy", "PIL", "torch", "torchvision"}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    ours = imports(path) & {"handlers", "training", "serving", "scripts", "tests", "benchmarks", "_cli"}
    assert ours <= ALLOWED[room]


@pytest.mark.parametrize("path", sorted((ROOT / "handlers").glob("*.py")), ids=lambda path: path.name)
def test_handlers_need_nothing_that_a_server_has_not(path):
    assert imports(path) - set(sys.stdlib_module_names) - {"handlers"} <= SERVER_LIBRARIES


@pytest.mark.parametrize("path", sorted((ROOT / "handlers" / "explain").glob("*.py")), ids=lambda path: path.name)
def test_explanations_keep_captum_and_torchserve_in_one_file_each(path):
    """Everything else of the package is imported by every worker, with Captum or without."""
    foreign = imports(path) - set(sys.stdlib_module_names) - {"handlers"} - SERVER_LIBRARIES
    assert foreign <= {"methods.py": {"captum"}, "early.py": {"ts"}}.get(path.name, set())


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
    "fit",
    "pad",
    "contain",
    "reduce",
    "draft",
}
ALLOWED_CALLS = {
    # The project's own reader, which calls handlers.images.decode.
    ("training/data/loading.py", "read_image"),
    ("training/data/cache.py", "read_image"),
    ("training/data/statistics.py", "read_image"),
    # Trainer.fit, not PIL.ImageOps.fit.
    ("training/run.py", "fit"),
    ("training/optimize/distil.py", "fit"),
    # Of training batches that are prepared already: a kind of augmentation.
    ("training/data/resizing.py", "resize"),
    # Of a heat map, not of an image.
    ("handlers/explain/methods.py", "interpolate"),
    ("handlers/explain/picture.py", "pad"),
    # LogisticRegression.fit, on features.
    ("training/selection/probe.py", "fit"),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_there_is_one_preprocessing(path):
    """Fails as soon as anything but handlers/images.py opens or resizes an image."""
    name = path.relative_to(ROOT).as_posix()
    if name == "handlers/images.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            for forbidden in FORBIDDEN_CALLS:
                if called == forbidden or called.endswith(f".{forbidden}"):
                    assert (name, forbidden) in ALLOWED_CALLS, f"{name}:{node.lineno} calls {called}"


# Who may touch a library that can decode or resize, and what of it.
IMAGE_LIBRARIES = {"PIL", "cv2", "imageio", "skimage", "simplejpeg", "turbojpeg", "torchvision"}
ALLOWED_IMAGE_IMPORTS = {
    "handlers/explain/picture.py": {"from PIL import Image"},  # writes PNG files
    "handlers/batch.py": {"from PIL import Image"},  # for annotations
    "handlers/payload.py": {"from PIL import Image"},  # for annotations
    "handlers/predictor.py": {"from PIL import Image"},  # for annotations
    "training/data/augment.py": {
        "from PIL import Image",
        "from torchvision.transforms import InterpolationMode, v2",
    },
    "training/data/cache.py": {"from PIL import Image"},  # for what the cache holds
    "training/data/digits.py": {"from PIL import Image"},  # writes files
    "training/data/loading.py": {"from PIL import Image"},  # for annotations
    "training/data/mixing.py": {"from torchvision.transforms import v2"},
    "training/data/resizing.py": {"from torchvision.transforms.v2 import functional"},
    "training/importing/torch_weights.py": {"import torchvision.models"},  # architectures without weights
    "training/report/pictures.py": {"from PIL import Image"},  # writes thumbnails of prepared pixels
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_image_libraries_are_kept_in_their_rooms(path):
    """The rule above reads names of calls; this one leaves no other name to call them by."""
    name = path.relative_to(ROOT).as_posix()
    if name == "handlers/images.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            if {module.split(".")[0] for module in modules} & IMAGE_LIBRARIES:
                assert ast.unparse(node) in ALLOWED_IMAGE_IMPORTS.get(name, set()), f"{name}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if re.fullmatch(r"Image\.\w+", dotted):
                assert dotted in ALLOWED_IMAGE_NAMES, f"{name}:{node.lineno} uses {dotted}"
            if re.fullmatch(r"v2\.[\w.]+", dotted):
                assert dotted in ALLOWED_TRANSFORMS, f"{name}:{node.lineno} uses {dotted}"


def test_training_evaluates_with_the_served_functions(digits):
    from training.data.manifest import Record

    assert training.data.loading.decode is handlers.images.decode
    assert training.data.loading.prepare is handlers.images.prepare
    spec = ImageSpec(channels=1, resize=36, crop=32)
    path = next((digits / "test" / "3").glob("*.png"))
    images = training.data.loading.EvaluationImages([Record(str(path), "3", "test")], ["3"], spec)
    pixels, label = images[0]
    assert label == 0
    assert np.array_equal(pixels.numpy(), handlers.images.load(path.read_bytes(), spec))


def test_a_change_of_the_served_preprocessing_reaches_evaluation(digits, monkeypatch):
    """The dynamic twin of the rule above: evaluation has no pixels but those of handlers.images."""
    from training.data.manifest import Record

    spec = ImageSpec(channels=1, resize=32, crop=32)
    path = next((digits / "test" / "3").glob("*.png"))
    before = handlers.images.load(path.read_bytes(), spec)
    monkeypatch.setitem(handlers.images._RESAMPLING, "bilinear", handlers.images.Image.Resampling.NEAREST)
    images = training.data.loading.EvaluationImages([Record(str(path), "3", "test")], ["3"], spec)
    assert not np.array_equal(before, images[0][0].numpy())
