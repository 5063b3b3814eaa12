"""What a data set's images tell before training: warnings, and the window of deep samples."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import tyro
from PIL import Image

from marquee.handlers.core.bundle import read_spec, sha256_file
from marquee.handlers.core.golden import verify_golden
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.config import dump_config, load_run_config
from marquee.training.core.progress import Progress
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.advice import advise
from marquee.training.tasks.image_classification.config import (
    ClassificationExportConfig,
    ImageConfig,
    ImageLoopConfig,
    ImageRunConfig,
    ModelConfig,
)
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.data.scan import scan
from marquee.training.tasks.image_classification.data.windowing import reading_of, resolve_window
from marquee.training.tasks.image_classification.network import build_network
from marquee.training.tasks.image_classification.task import ImageClassification
from tests.unit.picture_files import dark_top, png, tiff

QUIET = Progress(quiet=True)
TASK = ImageClassification()


def configured(**image) -> ImageRunConfig:
    return ImageRunConfig(image=ImageConfig(**{"size": 16, **image}), model=ModelConfig(arch="resnet9_w32"))


def classes(folder, files) -> None:
    """The same pixels in two classes; the files differ, or they would be copies under two labels."""
    for label in "ab":
        (folder / label).mkdir()
        for i, content in enumerate(files):
            (folder / label / f"{i}.png").write_bytes(content + label.encode())


def white_on_nothing(folder, **options) -> list[str]:
    image = Image.new("LA", (16, 16), (255, 0))
    image.paste((255, 255), (3, 3, 9, 9))
    for label in "ab":
        (folder / label).mkdir(exist_ok=True)
        for i in range(5):
            path = folder / label / f"{i}.png"
            image.save(path)
            path.write_bytes(path.read_bytes() + f"{label}{i}".encode())  # no copies
    config = configured(**options)
    manifest, rejected = TASK.read(config, folder, QUIET)
    assert rejected == []
    return TASK.split(config, manifest)[1]


class TestFlattened:
    def test_the_warning(self, tmp_path):
        (line,) = white_on_nothing(tmp_path)
        assert "10 of 10 images are one flat colour" in line
        assert str(tmp_path / "a" / "0.png") in line
        assert "--image.background, such as 0 or 128" in line

    @pytest.mark.parametrize("background", [0, 128])
    def test_another_background_shows_them(self, tmp_path, background):
        assert white_on_nothing(tmp_path, background=background) == []


class TestWindow:
    @staticmethod
    def records(folder, *levels: tuple[int, int]) -> Manifest:
        records = []
        for i, (low, high) in enumerate(levels):
            path = folder / f"{i}.png"
            path.write_bytes(png(dark_top(low, high), 16))
            records.append(Record(str(path), "ab"[i % 2], "train", sha256_file(path), 16, 16, "I;16"))
        return Manifest(tuple(records))

    def test_the_warning(self, tmp_path):
        classes(tmp_path, [png(dark_top(7000 + i, 9000), 16) for i in range(4)])
        manifest, _ = TASK.read(configured(), tmp_path, QUIET)
        (line,) = manifest.warnings
        assert "8 images have more than 8 bits a sample, but their values fill only 3.1 %" in line
        assert "--image.window auto" in line
        assert TASK.split(configured(), manifest)[1] == [line]
        assert TASK.read(configured(window="7000,9000"), tmp_path, QUIET)[0].warnings == ()

    @pytest.mark.parametrize(
        "content", [png(dark_top(0, 60000), 16), png(dark_top(0, 3)), tiff(dark_top(0, 4000).astype(np.uint16), 1, 12)]
    )
    def test_files_that_fill_their_range_have_none(self, tmp_path, content):
        classes(tmp_path, [content, content + b"\0"])
        assert scan(tmp_path, 10**6, QUIET)[0].warnings == ()

    def test_of_the_training_images(self, tmp_path):
        manifest = self.records(tmp_path, (1000, 2000), (1500, 3000))
        manifest = replace(manifest, records=(*manifest.records, replace(manifest.records[0], split="test")))
        assert resolve_window(configured(window="auto"), manifest).image.window == "1000,3000"
        spec = build_network(configured(window="auto"), manifest, 2)[1]
        assert spec.window == (1000, 3000)
        assert spec.channels == 1
        served = load(png(dark_top(1000, 3000), 16), spec)
        assert (served[0, 0, 0], served[-1, 0, 0]) == (0, 255)
        assert spec.std[0] > 0.1  # statistics of what the window shows

    def test_of_images_of_eight_bits(self, tmp_path):
        path = tmp_path / "0.png"
        path.write_bytes(png(dark_top(3, 9)))
        manifest = Manifest((Record(str(path), "a", "train", sha256_file(path)),))
        assert resolve_window(configured(window="auto"), manifest).image.window == "none"

    def test_of_images_without_contrast(self, tmp_path):
        assert resolve_window(configured(window="auto"), self.records(tmp_path, (7, 7))).image.window == "7,8"

    def test_files_whose_white_only_a_window_defines(self, tmp_path):
        values = dark_top(-40, 120).astype(np.int16)
        values[0, 0] = 30
        classes(tmp_path, [tiff(values + i, 1) for i in range(4)])
        manifest, rejected = scan(tmp_path, 10**6, QUIET, reading_of(configured(window="auto").image))
        assert (len(manifest.records), rejected) == (8, [])
        training = replace(manifest, records=tuple(replace(record, split="train") for record in manifest.records))
        assert resolve_window(configured(window="auto"), training).image.window == "-40,123"
        with pytest.raises(Exception, match="signed 16-bit grey samples have no defined white"):
            TASK.read(configured(), tmp_path, QUIET)

    @pytest.mark.parametrize("text", ["", "1", "2,1", "1,1", "a,b", "1,2,3", "nan,1", "0,inf"])
    def test_nonsense(self, text):
        with pytest.raises(ValueError, match="window: expected LOW,HIGH"):
            ImageConfig(window=text)

    def test_on_the_command_line(self):
        assert tyro.cli(ImageConfig, args=["--window=-1000,3000"]).window == "-1000,3000"
        assert tyro.cli(ImageConfig, args=["--window", "auto"]).window == "auto"


class TestHidden:
    @staticmethod
    def advice(width, height, **options) -> str:
        model = options.pop("model", ModelConfig(arch="resnet18"))
        config = ImageRunConfig(image=ImageConfig(**options), model=model)
        records = [
            Record(f"{i}.png", "ab"[i % 2], "train" if i < 40 else "val", str(i), width, height, "RGB")
            for i in range(80)
        ]
        lines = advise(config, Manifest(tuple(records)))
        return " ".join(line for line in lines if "centre crop" in line)

    def test_the_warning(self):
        line = self.advice(1600, 900)
        assert "44 % of the median image lies outside of the centre crop" in line
        assert "--image.fit pad or --image.fit squash" in line
        assert "--image.resize" not in line

    @pytest.mark.parametrize("size", [(640, 480), (600, 400), (480, 640), (100, 100)])
    def test_ordinary_shapes_have_none(self, size):
        assert self.advice(*size) == ""

    @pytest.mark.parametrize("fit", ["squash", "pad"])
    def test_what_shows_all_has_none(self, fit):
        assert self.advice(1600, 900, fit=fit) == ""

    def test_the_margin_of_pretrained_weights_counts(self):
        """timm's ResNet-18 expects the centre of 95 %."""
        assert (
            self.advice(640, 480, model=ModelConfig(arch="resnet18", pretrained="timm"), resize=280).count("52 %") == 1
        )
        line = self.advice(580, 400, model=ModelConfig(arch="resnet18", pretrained="timm"))
        assert "--image.resize 224, which crops less" in line


class TestSpec:
    def test_new_runs_read_what_the_file_says(self, tmp_path):
        config = configured(fit="pad", background=7, profile="srgb", window="0,4095", channels="rgb")
        path = tmp_path / "0.png"
        path.write_bytes(png(dark_top(3, 9)))
        manifest = Manifest((Record(str(path), "a", "train", sha256_file(path)),))
        spec = build_network(config, manifest, 2)[1]
        assert (spec.reading, spec.fit, spec.background, spec.profile) == ("file", "pad", 7, "srgb")
        assert spec.window == (0, 4095)
        assert (spec.resize, spec.crop) == (16, 16)
        plain = build_network(configured(), manifest, 2)[1]
        assert plain == replace(
            ImageSpec(channels=3, resize=16, crop=16, mean=plain.mean, std=plain.std, decode="scaled"), reading="file"
        )

    @pytest.mark.parametrize(("fit", "resize"), [("crop", 256), ("squash", 224), ("pad", 224)])
    def test_the_margin_of_imports(self, fit, resize, tmp_path):
        from marquee.training.importing.config import ImportConfig, InputDefaults, image_spec

        config = ImportConfig(model=tmp_path, labels=tmp_path, images=tmp_path, fit=fit, window="0,99", profile="srgb")
        spec = image_spec(config, InputDefaults())
        assert (spec.fit, spec.resize, spec.reading, spec.window, spec.profile) == (
            fit,
            resize,
            "file",
            (0, 99),
            "srgb",
        )

    def test_resumed_runs_keep_what_they_had(self, tmp_path):
        """Their configuration lacks the fields that came later."""
        import yaml

        document = yaml.safe_load(dump_config(configured()))
        for name in ("reading", "window", "fit", "profile", "background"):
            del document["image"][name]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
        image = load_run_config(tmp_path / "config.yaml").image
        assert (image.reading, image.window, image.fit) == ("pillow", "none", "crop")
        assert (image.profile, image.background, image.decode) == ("ignore", 255, "scaled")
        (tmp_path / "config.yaml").write_text(dump_config(configured()))
        assert load_run_config(tmp_path / "config.yaml").image.reading == "file"


@pytest.mark.slow
def test_a_run_keeps_what_it_read_with(tmp_path):
    """Trained with a window of its images, padded: the bundle reads so, and predicts as evaluation did."""
    rng = np.random.default_rng(0)
    for label, low in (("dim", 7000), ("bright", 7600)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(12):
            values = rng.integers(low, low + 500, (24, 48))
            (tmp_path / "data" / label / f"{i}.png").write_bytes(png(values, 16))
    config = replace(
        configured(size=32, window="auto", fit="pad", background=3),
        loop=ImageLoopConfig(epochs=2, batch_size=8, workers=0, device="cpu", precision="fp32"),
        export=ClassificationExportConfig(unfamiliar=0),
    )
    run = RunFolder(tmp_path / "run")
    train(config, tmp_path / "data", run.path, report=False)
    resolved = load_run_config(run.config).image.window
    low, high = map(float, resolved.split(","))
    assert low == pytest.approx(7000, abs=10)
    assert high == pytest.approx(8100, abs=10)
    spec = read_spec(run.bundle).input
    assert (spec.window, spec.fit, spec.background, spec.reading) == ((low, high), "pad", 3, "file")
    predictor = Predictor.load(run.bundle, verify=verify_golden)
    images = sorted((tmp_path / "data").rglob("*.png"))
    predicted = {row["path"]: row["predicted"] for row in csv.DictReader(run.predictions.read_text().splitlines())}
    assert predicted
    for path, answer in zip(images, predictor.predict(images), strict=True):
        assert answer.label == predicted.get(str(path), answer.label)
    train(config, None, run.path, resume=True, report=False)  # "auto" is what it was
    assert load_run_config(run.config).image.window == resolved
