"""Architectures that can be built, but take no images of the size that is asked for, end a command in one line.

The windows of halonet26t's attention have 8 pixels, which its maps of 72 or 224 pixels are no multiple of.
"""

import pytest
import torch

from marquee.training.tasks.image_classification.models import architectures
from tests.conftest import QUICK

ARCH = "halonet26t"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(architectures().create_model(ARCH, num_classes=10).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("size", "more"), [(72, []), (128, ["--loop.progressive-resizing", "0.5"])], ids=["whole", "growing"]
)
def test_training(size, more, few, script, tmp_path):
    out = tmp_path / "run"
    options = [*QUICK, "--model.arch", ARCH, "--image.size", size, *more]
    result = script("train", "--data", few, "--out", out, *options, check=False)
    assert result.returncode == 1
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"error: --model.arch {ARCH}: does not take images of ")
    assert "block_size" in last
    assert last.endswith("; its authors use 256")
    assert "Traceback" not in result.stderr
    script("train", "--data", few, "--out", out, *QUICK, "--loop.epochs", 1)  # nothing that failed is in the way


def test_importing(weights, few, script, tmp_path):
    (tmp_path / "labels").write_text("".join(f"{number}\n" for number in range(10)))
    given = ["--model", weights, "--arch", ARCH, "--size", 72, "--labels", tmp_path / "labels", "--images", few]
    result = script("import_model", *given, "--out", tmp_path / "run", check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"error: --arch {ARCH}: does not take images of 72 pixels: ")
    assert not (tmp_path / "run").exists()
