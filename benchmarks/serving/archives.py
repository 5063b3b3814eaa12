"""What the server's own benchmarks serve: a small network for digits, so that the server decides, or a ResNet-18."""

import subprocess
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.serving.material import INT8, make_material
from benchmarks.training.photos import write_photos
from marquee.handlers.golden import read_golden
from marquee.handlers.spec import read_spec
from marquee.serving.archive import open_archive, package
from marquee.training.data.digits import write_digits
from marquee.training.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "serving" / "results" / "server"
"""Folder of the result files."""
NAME = "digits"
_WORK = ROOT / ".benchmarks" / "serving"
_TRAIN = {
    "--image.size": 32,
    "--model.arch": "test_resnet",
    "--loop.epochs": 2,
    "--loop.batch-size": 32,
    "--loop.workers": 0,
    "--optimizer.lr": 4e-3,
    "--augment.horizontal-flip": 0,
}
_PHOTOS = 64


def digits_archive() -> Path:
    """The archive ``digits.mar``; trained and packaged where it is not there yet, which takes half a minute.

    Raises:
        TrainingError: it cannot be made.
    """
    archive = _WORK / f"{NAME}.mar"
    if archive.exists():
        return archive
    data, run = _WORK / "data", _WORK / "run"
    write_digits(data)
    for command in (
        ["train", "--data", data, "--out", run, *(word for pair in _TRAIN.items() for word in pair)],
        ["package", run, "--name", NAME, "--store", _WORK],
    ):
        script, *arguments = map(str, command)
        process = subprocess.run([sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments], check=False)
        if process.returncode:
            raise TrainingError(f"scripts/{script}.py failed, see above; remove {_WORK} and repeat the benchmark")
    return archive


def digits_bodies(archive: Path) -> list[bytes]:
    """The archive's golden samples: PNG files of some 150 bytes."""
    with open_archive(archive) as folder:
        spec = read_spec(folder)
        return [sample.data for sample in read_golden(folder, spec, spec.variants[0])]


def resnet18_archive() -> Path:
    """The archive ``resnet18.mar`` of the comparison's network in int8, packaged with the handlers as they are now.

    Raises:
        TrainingError: it cannot be made.
    """
    make_material(_WORK / "material")
    return package(_WORK / "material" / "bundle", "resnet18", "1.0", _WORK, INT8)


def photo_bodies() -> list[bytes]:
    """JPEG photographs of 500x375 pixels: some milliseconds of decoding each, and tens of kilobytes on the wire."""
    folder = _WORK / "photos"
    write_photos(folder, _PHOTOS, 0)
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
