"""Parts of training against values worked out by hand."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.checkpoint import CheckpointStore, TrainingState, load_checkpoint, load_weights
from marquee.training.core.config import OptimizerConfig, SplitConfig, dump_config, load_config, load_run_config
from marquee.training.core.errors import CheckpointError, DataError, TrainingError
from marquee.training.core.files import atomic_folder, write_atomic
from marquee.training.core.records import check_resumable
from marquee.training.core.sampler import DistributedBatchSampler
from marquee.training.core.statistics import share_interval
from marquee.training.tasks.classification.metrics import classification_metrics
from marquee.training.tasks.image_classification.config import AugmentConfig, ImageConfig, ImageRunConfig
from marquee.training.tasks.image_classification.data.augment import Augmentation, crop_source
from marquee.training.tasks.image_classification.data.loading import TargetEncoder, TrainingImages
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record, read_manifest, write_manifest
from marquee.training.tasks.image_classification.data.split import assign_splits
from marquee.training.tasks.image_classification.task import ImageClassification


class TestConfig:
    def test_yaml_round_trip(self, tmp_path):
        config = ImageRunConfig(optimizer=OptimizerConfig(lr=0.5, min_lr=0.1))
        (tmp_path / "c.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "c.yaml") == config

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("optimizer: {lr: -1}", "optimizer.lr: expected more than 0"),
            ("optimizer: {lr: fast}", "optimizer.lr: expected float, got str 'fast'"),
            ("optimiser: {}", "optimiser: unknown field"),
            ("split: {val: 0}", "split.val: expected more than 0"),
            ("image: {size: 224, resize: 100}", "image.resize: expected 0 or at least size"),
            ("a: [", "not readable as YAML"),
            ("[1]", "expected an object"),
        ],
    )
    def test_errors_name_file_and_field(self, tmp_path, text, message):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(TrainingError) as caught:
            load_config(tmp_path / "c.yaml")
        assert message in str(caught.value)
        assert "c.yaml" in str(caught.value)

    def test_an_empty_file_is_the_defaults(self, tmp_path):
        (tmp_path / "c.yaml").write_text("")
        assert load_config(tmp_path / "c.yaml") == ImageRunConfig()

    def test_a_run_from_before_scaled_decoding_goes_on_without_it(self, tmp_path):
        path = tmp_path / "config.yaml"
        for decode in ("full", "scaled"):
            path.write_text(dump_config(ImageRunConfig(image=ImageConfig(decode=decode))))
            assert load_run_config(path).image.decode == decode
        path.write_text(path.read_text().replace("  decode: scaled\n", ""))
        assert "decode" not in path.read_text()
        assert load_run_config(path).image.decode == "full"
        assert load_run_config(path) == ImageRunConfig(image=ImageConfig(decode="full"))
        with pytest.raises(TrainingError, match="cannot resume with --image.decode scaled, the run has full"):
            check_resumable(ImageRunConfig(), tmp_path)


def records(**counts: int) -> Manifest:
    return Manifest(
        tuple(Record(f"/{label}/{i}", label, "", f"{label}{i:060d}") for label, n in counts.items() for i in range(n))
    )


class TestSplit:
    def test_stratified(self):
        manifest, warnings = assign_splits(records(a=100, b=20), SplitConfig(val=0.1, test=0.2), seed=0)
        counts = Counter((record.label, record.split) for record in manifest.records)
        assert counts == {
            ("a", "train"): 70,
            ("a", "val"): 10,
            ("a", "test"): 20,
            ("b", "train"): 14,
            ("b", "val"): 2,
            ("b", "test"): 4,
        }
        assert not warnings

    def test_seeded_and_independent_of_places(self):
        def chosen(manifest, seed):
            split, _ = assign_splits(manifest, SplitConfig(), seed)
            return {record.sha256: record.split for record in split.records}

        here = records(a=50, b=50)
        moved = Manifest(tuple(Record(f"/z{r.path}", r.label, "", r.sha256) for r in reversed(here.records)))
        assert chosen(here, 1) == chosen(moved, 1)
        assert chosen(here, 1) != chosen(here, 2)

    def test_small_classes(self):
        manifest, warnings = assign_splits(records(a=30, three=3, two=2, one=1), SplitConfig(), seed=0)
        of = {label: Counter(r.split for r in manifest.records if r.label == label) for label in manifest.labels}
        assert of["three"] == {"train": 1, "val": 1, "test": 1}
        assert of["one"] == {"train": 1}
        assert any("'one' has no val image" in line for line in warnings)

    def test_named_splits_stay_and_validation_comes_from_train(self):
        named = tuple(Record(f"/{i}", "ab"[i % 2], "test" if i < 10 else "train", f"{i:064d}") for i in range(50))
        manifest, _ = assign_splits(Manifest(named), SplitConfig(val=0.25), seed=0)
        assert {r.path for r in manifest.split("test")} == {f"/{i}" for i in range(10)}
        assert len(manifest.split("val")) == 10

    def test_a_class_that_cannot_be_learnt(self):
        named = (*records(a=9, b=9).records, Record("/x", "c", "test", "0" * 64))
        with pytest.raises(DataError, match="'c' has images for val or test but none for train"):
            assign_splits(Manifest(named), SplitConfig(), seed=0)


def test_manifest_round_trip_and_digest(tmp_path):
    manifest = Manifest(
        (Record('/a "b",c/ü.png', "x", "train", "1" * 64, 3, 4, "L"), Record("/d", "y", "val", "2" * 64))
    )
    write_manifest(tmp_path / "m.csv", manifest)
    assert read_manifest(tmp_path / "m.csv") == manifest
    moved = Manifest((manifest.records[1], Record("/elsewhere", "x", "train", "1" * 64)))
    assert moved.digest == manifest.digest
    relabelled = Manifest((Record("/a", "y", "train", "1" * 64), manifest.records[1]))
    assert relabelled.digest != manifest.digest


class TestDistributedBatchSampler:
    def test_every_rank_has_its_share_of_the_same_batches(self):
        whole = [[index for _, index in batch] for batch in DistributedBatchSampler(103, 8, seed=3)]
        first = [[index for _, index in batch] for batch in DistributedBatchSampler(103, 8, 3, rank=0, world=2)]
        second = [[index for _, index in batch] for batch in DistributedBatchSampler(103, 8, 3, rank=1, world=2)]
        assert len(whole) == 12
        assert all(len(batch) == 8 for batch in whole)
        assert len({index for batch in whole for index in batch}) == 96
        assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in whole]

    def test_a_start_skips_and_an_epoch_reorders(self):
        plan = DistributedBatchSampler(40, 8, seed=0)
        all_batches = list(plan)
        plan.start = 3
        assert list(plan) == all_batches[3:]
        plan.start, plan.epoch = 0, 1
        assert list(plan) != all_batches

    def test_fewer_images_than_a_batch(self):
        (batch,) = list(DistributedBatchSampler(5, 32, seed=0))
        assert len(batch) == 5

    def test_a_batch_that_cannot_be_shared(self):
        with pytest.raises(DataError, match="batch size 9"):
            DistributedBatchSampler(100, 9, 0, 0, 2)


class TestAugmentation:
    SPEC = ImageSpec(channels=3, resize=32, crop=32, mean=(0.5,) * 3, std=(1.0,) * 3)
    OFF = {"crop_scale": 1, "horizontal_flip": 0, "rotation": 0, "zoom": 0, "color": 0}

    def image(self):
        image = Image.new("RGB", (32, 32))
        image.paste((255, 0, 0), (0, 0, 16, 32))
        return image

    def draws(self, n=300, **options):
        augment = Augmentation(AugmentConfig(**{**self.OFF, **options}), self.SPEC, (0.5, 0.5, 0.5))
        torch.manual_seed(0)
        return [augment(self.image()).numpy() for _ in range(n)]

    def test_off_is_the_served_preprocessing(self):
        from marquee.handlers.inputs.image.decode import prepare

        assert all(np.array_equal(pixels, prepare(self.image(), self.SPEC)) for pixels in self.draws(3))

    def test_no_random_crop_is_enlarged(self):
        assert crop_source(AugmentConfig(crop_scale=1), self.SPEC) is None  # as served
        assert crop_source(AugmentConfig(crop_scale=0.25), self.SPEC) == 64  # a quarter of the area, half of the side
        assert crop_source(AugmentConfig(crop_scale=0.99), replace(self.SPEC, resize=48)) == 48

    def test_large_photos_are_decoded_as_large_as_crops_need(self, tmp_path):
        path = tmp_path / "0.jpg"
        Image.linear_gradient("L").resize((1024, 1024)).convert("RGB").save(path)
        record, spec, seen = Record(str(path), "3", "train"), replace(self.SPEC, decode="scaled"), []

        def augment(image):
            seen.append(image.size[0])
            return torch.zeros(1)

        for short_side in (None, 64, 100, 300):
            TrainingImages([record], TargetEncoder(["3"]), spec, augment, 0, short_side=short_side)[0, 0]
        assert seen == [128, 128, 256, 1024]

    @pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
    def test_flips_happen_at_their_rate(self, probability):
        flipped = np.mean([pixels[0, -1, 0] == 255 for pixels in self.draws(horizontal_flip=probability)])
        assert flipped == pytest.approx(probability, abs=0.07)

    @pytest.mark.parametrize(
        "options",
        [
            {"crop_scale": 0.3},
            {"rotation": 30},
            {"zoom": 0.3},
            {"color": 0.4},
            {"erasing": 1.0},
            {"vertical_flip": 0.5},
        ],
    )
    def test_each_kind_changes_pixels_and_keeps_the_form(self, options):
        image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
        augment = Augmentation(AugmentConfig(**{**self.OFF, **options}), self.SPEC, (0.5, 0.5, 0.5))
        torch.manual_seed(0)
        results = [augment(image).numpy() for _ in range(20)]
        assert all(pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 for pixels in results)
        assert len({pixels.tobytes() for pixels in results}) >= 2

    def test_rotation_stays_within_its_range(self):
        """A vertical edge through the centre, rotated by at most 10 degrees, moves by less than 16 tan(10) rows."""
        for pixels in self.draws(50, rotation=10):
            edge = (pixels[2, :, 0] > 128).sum()
            assert abs(edge - 16) <= 16 * math.tan(math.radians(10)) + 1.5

    @pytest.mark.slow
    def test_loaders_that_do_not_fork_can_have_it(self, digits):
        from marquee.training.core.sampler import DistributedBatchSampler
        from marquee.training.tasks.image_classification.data.loading import TrainingImages

        paths = sorted((digits / "test" / "3").glob("*.png"))[:8]
        found = [Record(str(path), "3", "train") for path in paths]
        spec = ImageSpec(channels=1, resize=16, crop=16)
        images = TrainingImages(found, TargetEncoder(["3"]), spec, Augmentation(AugmentConfig(), spec, (0.1,)), seed=0)
        batches = [
            next(
                iter(
                    torch.utils.data.DataLoader(
                        images, batch_sampler=DistributedBatchSampler(8, 8, 0), num_workers=n, **options
                    )
                )
            )
            for n, options in ((0, {}), (1, {"multiprocessing_context": "forkserver"}))
        ]
        assert torch.equal(batches[0][0], batches[1][0])

    def test_grey(self):
        spec = ImageSpec(channels=1, resize=16, crop=16)
        augment = Augmentation(AugmentConfig(erasing=0.5), spec, (0.1,))
        assert augment(Image.new("L", (20, 30), 9)).shape == (16, 16, 1)


class TestCheckpoints:
    def pair(self):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)

    def step(self, model, optimizer):
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def test_a_restored_copy_goes_on_identically(self, tmp_path):
        model, optimizer, scaler = self.pair()
        self.step(model, optimizer)
        path = CheckpointStore(tmp_path).save(model, optimizer, scaler, TrainingState(epoch=1), best=True)
        other, other_optimizer, _ = self.pair()
        state = load_checkpoint(path, other, other_optimizer, scaler)
        assert state.epoch == 1
        for _ in range(3):
            self.step(model, optimizer)
            self.step(other, other_optimizer)
        assert torch.equal(model.weight, other.weight)

    def test_fused_kernels_get_the_layout_that_they_expect(self, tmp_path):
        """Channels_last parameters with contiguous averages from the file: fused AdamW pairs the wrong numbers."""

        def pair():
            torch.manual_seed(0)
            model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

        def step(model, optimizer):
            torch.manual_seed(1)
            images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
            model(images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        scaler = torch.amp.GradScaler("cpu", enabled=False)
        model, optimizer = pair()
        step(model, optimizer)
        path = CheckpointStore(tmp_path).save(model, optimizer, scaler, TrainingState(), best=False)
        other, other_optimizer = pair()
        load_checkpoint(path, other, other_optimizer, scaler)
        for _ in range(2):
            step(model, optimizer)
            step(other, other_optimizer)
        assert torch.equal(model.weight, other.weight)

    def test_kernels_are_chosen_by_the_device_at_hand(self, tmp_path):
        model = nn.Linear(2, 2)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        fused = torch.optim.AdamW(model.parameters(), fused=True)
        path = CheckpointStore(tmp_path).save(model, fused, scaler, TrainingState(), best=False)
        plain = torch.optim.AdamW(model.parameters())
        load_checkpoint(path, model, plain, scaler)
        assert not plain.param_groups[0]["fused"]

    def test_the_last_checkpoint_is_never_pruned(self, tmp_path):
        store = CheckpointStore(tmp_path, keep=1)
        parts = self.pair()
        store.save(*parts, TrainingState(epoch=2), best=True)
        (tmp_path / ".epoch-0009.abc").mkdir()  # what a kill -9 leaves
        # Written after a crash that had moved the pointer back.
        path = store.save(*parts, TrainingState(epoch=1, batch=5), best=False)
        assert store.find("last") == path
        assert path.is_dir()
        assert not list(tmp_path.glob(".epoch-*"))

    def test_history_is_bounded_and_keeps_the_best(self, tmp_path):
        store = CheckpointStore(tmp_path, keep=2)
        parts = self.pair()
        for epoch in range(1, 7):
            store.save(*parts, TrainingState(epoch=epoch), best=epoch == 2)
        names = sorted(path.name for path in tmp_path.glob("epoch-*"))
        assert names == ["epoch-0002", "epoch-0005", "epoch-0006"]
        assert store.find("last").name == "epoch-0006"
        assert store.find("best").name == "epoch-0002"

    @pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors"])
    def test_damage_is_noticed(self, tmp_path, file):
        model, optimizer, scaler = self.pair()
        self.step(model, optimizer)
        path = CheckpointStore(tmp_path).save(model, optimizer, scaler, TrainingState(), best=False)
        data = bytearray((path / file).read_bytes())
        data[-1] ^= 1
        (path / file).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"{file}: damaged"):
            load_checkpoint(path, model, optimizer, scaler)

    @pytest.mark.parametrize("damage", ["flipped weights", "truncated state", "another epoch", "gone", "odd pointer"])
    def test_a_damaged_one_is_replaced_by_the_one_before(self, tmp_path, damage, caplog):
        store, parts = CheckpointStore(tmp_path), self.pair()
        before = store.save(*parts, TrainingState(epoch=1), best=True)
        last = store.save(*parts, TrainingState(epoch=2), best=False)
        state = last / "state.json"
        if damage == "flipped weights":
            data = bytearray((last / "weights.safetensors").read_bytes())
            data[len(data) // 2] ^= 4
            (last / "weights.safetensors").write_bytes(data)
        elif damage == "truncated state":
            state.write_text(state.read_text()[:-20])
        elif damage == "another epoch":
            state.write_text(state.read_text().replace('"epoch": 2', '"epoch": 3'))
        elif damage == "gone":
            shutil.rmtree(last)
        else:
            (tmp_path / "last").write_bytes(b"\xff\xfe")
            before, last = last, tmp_path / "\ufffd"
        assert store.find("last") == before
        assert str(before) in caplog.text
        assert str(last) in caplog.text

    def test_all_damaged(self, tmp_path):
        store = CheckpointStore(tmp_path)
        path = store.save(*self.pair(), TrainingState(epoch=1), best=False)
        (path / "state.json").write_text("{}")
        with pytest.raises(CheckpointError, match="there is no other checkpoint"):
            store.find("last")

    def test_the_average_is_what_is_served(self, tmp_path):
        model, optimizer, scaler = self.pair()
        average, _, _ = self.pair()
        self.step(average, torch.optim.SGD(average.parameters(), lr=1.0))
        path = CheckpointStore(tmp_path).save(model, optimizer, scaler, TrainingState(), True, average)
        served, resumed, its_average = self.pair()[0], self.pair()[0], self.pair()[0]
        load_weights(path, served)
        assert torch.equal(served.weight, average.weight)
        load_checkpoint(path, resumed, optimizer, scaler, its_average)
        assert torch.equal(resumed.weight, model.weight)
        assert torch.equal(its_average.weight, average.weight)
        assert not torch.equal(model.weight, average.weight)

    def test_another_model(self, tmp_path):
        path = CheckpointStore(tmp_path).save(*self.pair(), TrainingState(), best=False)
        with pytest.raises(CheckpointError, match="do not fit the configured model"):
            load_weights(path, nn.Linear(4, 2))

    def test_no_checkpoint_holds_pickle(self, tmp_path):
        path = CheckpointStore(tmp_path).save(*self.pair(), TrainingState(), best=False)
        assert sorted(file.name for file in path.iterdir()) == [
            "optimizer.safetensors",
            "state.json",
            "weights.safetensors",
        ]
        assert json.loads((path / "state.json").read_text())["state"]["epoch"] == 0


class TestFiles:
    def test_a_failure_leaves_the_old_folder(self, tmp_path):
        with atomic_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("1")
        with pytest.raises(RuntimeError, match="halfway"), atomic_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("2")
            raise RuntimeError("halfway")
        assert (tmp_path / "x" / "a").read_text() == "1"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_replacing(self, tmp_path):
        for content in ("1", "2"):
            with atomic_folder(tmp_path / "x") as folder:
                (folder / "a").write_text(content)
            write_atomic(tmp_path / "y", content)
        assert (tmp_path / "x" / "a").read_text() == (tmp_path / "y").read_text() == "2"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


class TestIntervalsOfGroups:
    """36 patients with ten images each, which are answered alike."""

    GROUPS = tuple(str(i // 10) for i in range(360))

    def test_they_cover_the_truth_as_often_as_they_say(self):
        rng, covered = np.random.default_rng(0), {"groups": 0, "images": 0}
        for _ in range(500):
            of_group = rng.beta(2, 0.5, 36)  # its mean is 0.8
            right = rng.random(360) < np.repeat(of_group, 10)
            for name, groups in (("groups", self.GROUPS), ("images", None)):
                low, high = share_interval(right, groups)
                covered[name] += low <= 0.8 <= high
        assert covered["images"] < 0.75 * 500
        assert covered["groups"] > 0.92 * 500

    def test_images_that_tell_nothing_of_each_other_lose_little(self):
        rng = np.random.default_rng(0)
        wider = []
        for _ in range(200):
            right = rng.random(360) < 0.8
            alone, grouped = share_interval(right), share_interval(right, self.GROUPS)
            wider.append((grouped[1] - grouped[0]) / (alone[1] - alone[0]))
        assert 1 < np.mean(wider) < 1.15

    def test_what_cannot_be_told(self):
        sure = np.ones(360, dtype=bool)
        low, high = share_interval(sure, self.GROUPS)
        assert high == 1
        assert low < share_interval(sure[:36])[0] < share_interval(sure)[0]
        assert share_interval(sure, ["one"] * 360)[0] < 0.25

    def test_a_group_for_each_image_changes_nothing(self):
        right = np.arange(50) % 3 > 0
        assert share_interval(right, [str(i) for i in range(50)]) == share_interval(right)


class TestMetrics:
    PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
    TARGETS = np.array([0, 0, 1, 1])

    def test_by_hand(self):
        metrics = classification_metrics(self.PROBABILITIES, self.TARGETS)
        assert metrics["images"] == 4
        assert metrics["accuracy"] == 0.75
        # Class 2 has no image: the mean is over the recalls 1 and 1/2.
        assert metrics["balanced_accuracy"] == 0.75
        assert metrics["confusion_matrix"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
        assert metrics["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(0.8) + math.log(0.3)) / 4)
        # Squared distances to (1, 0, 0) and (0, 1, 0).
        assert metrics["brier"] == pytest.approx((2 * 0.01 + 2 * 0.16 + 2 * 0.04 + 2 * 0.49) / 4)
        # Each pair of an image of class 0 and one of class 1: 0.9 and 0.6 against 0.2 and 0.7.
        assert metrics["auroc"] == pytest.approx(3 / 4)
        assert metrics["per_class"][0] == {
            "images": 2,
            "precision": pytest.approx(2 / 3),
            "recall": 1.0,
            "f1": pytest.approx(4 / 5),
        }
        assert metrics["per_class"][2] == {"images": 0, "precision": None, "recall": None, "f1": None}
        # Wilson's interval for 3 of 4, from its formula with z = 1.96.
        assert metrics["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
        assert [(row["count"], row["accuracy"]) for row in metrics["reliability"]] == [(1, 1), (1, 0), (1, 1), (1, 1)]
        # Each image has a bin of its own: |1 - 0.9|, |1 - 0.6|, |1 - 0.8|, |0 - 0.7|, each weighing 1/4.
        assert metrics["ece"] == pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4)

    def test_certain_ones_share_the_last_bin(self):
        """Confidences of 1 and 0.95 lie in one bin: on average 0.975 sure, and half right."""
        metrics = classification_metrics(np.array([[1.0, 0.0], [0.95, 0.05]]), np.array([0, 1]))
        assert [row["count"] for row in metrics["reliability"]] == [2]
        assert metrics["ece"] == pytest.approx(0.975 - 0.5)

    def test_auroc_counts_ties_as_a_half(self):
        """Of the four pairs of a 1 and a 0, two are in order and two are level: 3 of 4; one class alone has none."""
        probabilities = np.array([[0.2, 0.8], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
        assert classification_metrics(probabilities, np.array([1, 1, 0, 0]))["auroc"] == pytest.approx(3 / 4)
        assert classification_metrics(probabilities, np.array([1, 1, 1, 1]))["auroc"] is None

    def test_certain_and_wrong_is_finite(self):
        assert math.isfinite(classification_metrics(np.array([[1.0, 0.0]]), np.array([1]))["nll"])


def test_golden_samples_cover_all_classes():
    manifest = Manifest(
        tuple(
            Record(f"/{label}/{i}", label, "test" if i < 2 else "train", f"{label}{i:060d}")
            for label in "abcde"
            for i in range(10)
        )
    )
    chosen = ImageClassification().choose_golden(manifest, "test", 16)
    assert len(chosen) == 16
    assert Counter(record.label for record in chosen[:10]) == dict.fromkeys("abcde", 2)
    assert all(record.split == "test" for record in chosen[:10])
    assert len({record.path for record in chosen}) == 16
    many = Manifest(tuple(Record(f"/{i}", f"{i:03d}", "test", f"{i:064d}") for i in range(40)))
    assert len({record.label for record in ImageClassification().choose_golden(many, "test", 16)}) == 40
