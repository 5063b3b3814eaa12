"""Faults of a data set of images that would make a score mean something else: copies, contradictions, lost classes."""

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.selection.folds import make_folds
from marquee.training.tasks import default_config, task_named
from marquee.training.tasks.image_classification.config import ChecksConfig, ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest

QUIET = Progress(quiet=True)


@pytest.fixture
def put(digits, tmp_path):
    """Copies some digits of one kind into a folder, numbered from ``start``; returns it."""

    def call(folder: str, digit: int, count: int, start: int = 0, prefix: str = "") -> Path:
        target = tmp_path / "data" / folder
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((digits / "train" / str(digit)).glob("*.png"))[start : start + count]:
            shutil.copyfile(path, target / f"{prefix}{path.name}")
        return tmp_path / "data"

    return call


def read(data: Path, task: str = "image-classification", **checks: str) -> tuple[Manifest, list[Rejected], list[str]]:
    """Manifest with splits, what is left out, and what a run says."""
    config: ImageRunConfig = default_config(task)
    config = type(config)(**{**vars(config), "checks": ChecksConfig(**checks)})
    manifest, rejected = task_named(task).read(config, data, QUIET)
    manifest, lines = task_named(task).split(config, manifest)
    return manifest, rejected, lines


def refusal(data: Path, task: str = "image-classification", **checks: str) -> str:
    with pytest.raises(DataError) as caught:
        read(data, task, **checks)
    message = str(caught.value)
    assert "\n" not in message
    return message


def splits_of_contents(manifest: Manifest) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for record in manifest.records:
        splits[record.sha256].add(record.split)
    return splits


def table(folder: Path, rows: Sequence[str], header: str = "path,label") -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody may list the folder: root, who may, becomes somebody else meanwhile."""
    owner, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0)
    try:
        if owner == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(owner)
        folder.chmod(mode)


class TestCopies:
    def test_they_never_lie_in_two_splits(self, put):
        for label in (0, 1):
            for prefix in ("", "b", "c"):
                data = put(str(label), label, 20, prefix=prefix)
        manifest, _, lines = read(data)
        assert {len(splits) for splits in splits_of_contents(manifest).values()} == {1}
        counts = Counter((record.label, record.split) for record in manifest.records)
        assert all(counts[label, split] in (6, 9) for label in "01" for split in ("val", "test"))
        assert sum("80 of 120 images are copies of others in the same split" in line for line in lines) == 1

    def test_one_copy_does_not_change_how_the_others_are_divided(self, put):
        for label in (0, 1):
            data = put(str(label), label, 40)
        before, _, _ = read(data)
        put("0", 0, 1, prefix="copy-")
        after, _, _ = read(data)
        old, new = splits_of_contents(before), splits_of_contents(after)
        assert sum(old[content] != new[content] for content in old) <= 3

    def test_with_groups_they_are_one_set_through_each_other(self, put):
        """a and its copy, whose group has b, whose copy has another group."""
        put("0", 0, 40)
        data = put("1", 1, 40)
        files = sorted(data.rglob("*.png"))
        rows = [f"{path},{path.parent.name},g{i // 4}" for i, path in enumerate(files)]
        for i in range(0, 36, 4):  # the first of each group has a copy in the next one
            copy = files[i].with_name(f"copy-{files[i].name}")
            shutil.copyfile(files[i], copy)
            rows.append(f"{copy},{copy.parent.name},g{i // 4 + 1}")
        manifest, _, _ = read(table(data, rows, "path,label,group"))
        chain = {record.split for record in manifest.records if record.group in {f"g{i}" for i in range(10)}}
        assert len(chain) == 1
        assert {record.split for record in manifest.records} == {"train", "val", "test"}

    def test_copies_and_groups_are_held_out_together(self, put):
        """A copy without a group, of an image that has one."""
        for label in (0, 1):
            data = put(str(label), label, 20)
        files = sorted(data.rglob("*.png"))
        rows = [f"{path},{path.parent.name},g{i // 2}" for i, path in enumerate(files)]
        for path in files:
            copy = path.with_name(f"copy-{path.name}")
            shutil.copyfile(path, copy)
            rows.append(f"{copy},{copy.parent.name},")
        manifest, _ = task_named("image-classification").read(
            default_config("image-classification"), table(data, rows, "path,label,group"), QUIET
        )
        for fold in make_folds(manifest, 4, seed=0):
            assert {len(splits) for splits in splits_of_contents(fold).values()} == {1}


class TestOverlap:
    @pytest.fixture
    def overlapping(self, put):
        """All test images are also in train."""
        for label in (0, 1):
            put(f"train/{label}", label, 20)
            data = put(f"test/{label}", label, 8, prefix="t")
        return data

    def test_is_refused(self, overlapping):
        message = refusal(overlapping)
        assert "16 of 16 test images are also in train" in message
        assert str(overlapping / "test" / "0") in message
        assert "--checks.overlap drop" in message

    def test_copies_are_left_out_of_training(self, overlapping):
        manifest, rejected, lines = read(overlapping, overlap="drop")
        assert {len(splits) for splits in splits_of_contents(manifest).values()} == {1}
        assert len(manifest.split("test")) == 16
        assert len(rejected) == 16
        assert all(item.reason.startswith("a copy of ") and item.split == "train" for item in rejected)
        assert any("16 of 16 test images are also in train" in line for line in lines)
        assert any("8 of 28 files of class '0'" in line for line in lines)

    def test_they_stay_when_asked(self, overlapping):
        manifest, rejected, lines = read(overlapping, overlap="allow")
        assert (len(manifest.records), rejected) == (56, [])
        assert any("16 of 16 test images are also in train" in line for line in lines)

    def test_validation_images(self, put):
        for label in (0, 1):
            put(f"train/{label}", label, 20)
            data = put(f"val/{label}", label, 4, start=18)  # two of them are new
        assert "4 of 8 val images are also in train" in refusal(data)
        manifest, rejected, _ = read(data, overlap="drop")
        assert {len(splits) for splits in splits_of_contents(manifest).values()} == {1}
        assert Counter(record.split for record in manifest.records) == {"train": 36, "val": 8}
        assert {item.split for item in rejected} == {"train"}

    def test_one_file_in_two_rows_of_a_table(self, put):
        for label in (0, 1):
            data = put(str(label), label, 12)
        files = sorted(data.rglob("*.png"))
        rows = [f"{path},{path.parent.name},{'test' if i % 6 == 0 else ''}" for i, path in enumerate(files)]
        rows.append(f"{files[0]},0,train")
        listing = table(data, rows, "path,label,split")
        assert "1 of 4 test images are also in train" in refusal(listing)
        manifest, rejected, _ = read(listing, overlap="drop")
        assert len(manifest.split("test")) == 4
        assert len(rejected) == 1


class TestContradictions:
    @pytest.fixture
    def contradicting(self, put):
        """Three zeros lie among the ones, too."""
        put("0", 0, 20)
        put("1", 1, 20)
        return put("1", 0, 3, prefix="also-")

    def test_they_are_listed_and_left_out(self, contradicting):
        manifest, rejected, lines = read(contradicting)
        assert len(manifest.records) == 37
        assert Counter(item.stratum for item in rejected) == {"0": 3, "1": 3}
        assert all("the same image as " in item.reason for item in rejected)
        text = "\n".join(lines)
        assert "3 images lie under several labels" in text
        assert "all 6 files are left out" in text
        assert "3 of 20 files of class '0'" in text

    def test_they_are_refused_when_asked(self, contradicting):
        message = refusal(contradicting, contradictions="refuse")
        assert "3 images lie under several labels" in message
        assert "under '0', '1'" in message

    def test_kept_ones_are_in_one_split(self, contradicting):
        manifest, rejected, lines = read(contradicting, contradictions="allow")
        assert (len(manifest.records), rejected) == (43, [])
        assert {len(splits) for splits in splits_of_contents(manifest).values()} == {1}
        assert any("3 images lie under several labels" in line for line in lines)

    def test_sets_of_labels(self, put):
        for digit in (0, 1, 2):
            data = put("all", digit, 12)
        files = sorted(data.rglob("*.png"))
        labels = ["a|b", "b|a", "a"]
        rows = [f"{path},{labels[i % 3]}" for i, path in enumerate(files)]
        for i, label in ((0, "b|a"), (3, "a")):  # the same labels in another order; other labels
            copy = files[i].with_name(f"copy-{i}.png")
            shutil.copyfile(files[i], copy)
            rows.append(f"{copy},{label}")
        manifest, rejected, _ = read(table(data, rows), "multi-label-classification")
        assert {Path(item.path).name for item in rejected} == {files[3].name, "copy-3.png"}
        assert len(manifest.records) == 36


class TestLostClasses:
    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("png", b"nope", "not_an_image"),
            ("png", b"", "empty"),
            ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99, "HEIC"),
        ],
    )
    def test_all_of_a_class_are_bad(self, put, name, content, reason):
        put("0", 0, 10)
        data = put("1", 1, 10)
        (data / "cat").mkdir()
        for i in range(4):
            (data / "cat" / f"{i}.{name}").write_bytes(content)
        message = refusal(data)
        assert "class 'cat' has no usable image: all of its 4 files are left out" in message
        assert reason in message
        assert str(data / "cat" / f"0.{name}") in message
        manifest, _, lines = read(data, lost_classes="allow")
        assert manifest.labels == ("0", "1")
        assert any("class 'cat' has no usable image" in line for line in lines)
        assert any("left out: 4 of 4 files of class 'cat'" in line for line in lines)

    def test_all_too_large(self, put):
        put("0", 0, 10)
        data = put("1", 1, 10)
        config = default_config("image-classification")
        shutil.copytree(data / "1", data / "2")
        from PIL import Image

        for i, path in enumerate((data / "2").iterdir()):
            Image.new("L", (100, 100 + i)).save(path)
        small = type(config.image)(max_pixels=1000)
        with pytest.raises(DataError, match="class '2' has no usable image: all of its 10 files.*too_large"):
            task_named("image-classification").read(type(config)(image=small), data, QUIET)

    def test_links_that_lead_nowhere(self, put, tmp_path):
        """As where the folder of a class was moved to another disk; and one that leads to itself."""
        put("0", 0, 10)
        data = put("1", 1, 10)
        (data / "cat").symlink_to(tmp_path / "moved")
        assert "class 'cat' has no usable image: its only file is left out" in refusal(data)
        (data / "cat").unlink()
        (data / "cat").symlink_to(data / "cat")
        assert "class 'cat' has no usable image" in refusal(data)
        (data / "cat").unlink()
        (data / "cat.png").symlink_to(tmp_path / "moved.png")  # a file
        _, rejected, _ = read(data)
        assert [item.reason for item in rejected] == ["not in a class folder"]

    def test_locked_folders(self, digits):
        """Of a class, and within one."""
        with tempfile.TemporaryDirectory() as temporary:  # pytest's own folders are closed to others than their owner
            Path(temporary).chmod(0o755)
            data = Path(temporary) / "data"
            for digit in "012":
                shutil.copytree(digits / "test" / digit, data / digit)
            shutil.copytree(digits / "test" / "3", data / "1" / "more")
            with locked(data / "2"):
                message = refusal(data)
            with locked(data / "1" / "more"):
                _, rejected, lines = read(data)
            with locked(data):
                assert "Permission denied" in refusal(data)
        assert "class '2' has no usable image: its only file is left out" in message
        assert "Permission denied" in message
        assert [(item.path, item.stratum) for item in rejected] == [(str(data / "1" / "more"), "1")]
        assert "Permission denied" in rejected[0].reason
        assert any("files of class '1'" in line for line in lines)

    def test_in_one_of_its_splits(self, put):
        for label in (0, 1):
            put(f"train/{label}", label, 10)
        data = put("test/0", 0, 5, start=10)
        (data / "test" / "1").mkdir()
        assert any("class '1' has no test image" in line for line in read(data)[2])  # nothing is lost
        (data / "test" / "1" / "x.png").write_bytes(b"nope")
        assert "class '1' has no usable image in test" in refusal(data)

    def test_a_whole_split(self, put):
        for label in (0, 1):
            data = put(f"train/{label}", label, 10)
        put("test", 0, 5, start=10)  # without class folders
        message = refusal(data)
        assert "the split 'test' has no usable image: all of its 5 files are left out" in message
        assert "not in a class folder" in message
        manifest, _, _ = read(data, lost_classes="allow")
        assert {record.split for record in manifest.records} == {"train", "val"}

    def test_a_class_of_a_table(self, put):
        put("0", 0, 10)
        data = put("1", 1, 10)
        rows = [f"{path},{path.parent.name}" for path in sorted(data.rglob("*.png"))]
        listing = table(data, [*rows, "gone/1.png,cat", "gone/2.png,cat"])
        assert "class 'cat' has no usable image: all of its 2 files" in refusal(listing)
        assert "No such file" in refusal(listing)

    def test_what_is_lost_is_told_by_class(self, put):
        put("0", 0, 28)
        data = put("1", 1, 10)
        for i in range(12):
            (data / "0" / f"bad-{i}.png").write_bytes(b"nope")
        _, rejected, lines = read(data)
        (line,) = [line for line in lines if "files of class" in line]
        assert line.startswith("left out: 12 of 40 files of class '0'; first: ")
        assert {(item.stratum, item.split) for item in rejected} == {("0", "")}

    def test_an_empty_folder_is_no_class(self, put):
        put("0", 0, 10)
        data = put("1", 1, 10)
        (data / "models").mkdir()
        manifest, rejected, _ = read(data)
        assert manifest.labels == ("0", "1")
        assert [(item.reason, item.stratum) for item in rejected] == [("no files in this class folder", "")]


class TestLinks:
    def test_folders_are_followed(self, put, tmp_path):
        """A class that is a link, and a part of a class that is one."""
        put("0", 0, 10)
        data = put("1", 1, 10)
        for digit in (2, 3):
            shutil.move(put(f"away{digit}", digit, 10) / f"away{digit}", tmp_path / f"away{digit}")
        (data / "2").symlink_to(tmp_path / "away2")
        (data / "0" / "more").symlink_to(tmp_path / "away3")
        manifest, rejected, _ = read(data)
        assert Counter(record.label for record in manifest.records) == {"0": 20, "1": 10, "2": 10}
        assert rejected == []

    def test_loops_are_left_and_told(self, put):
        put("0", 0, 10)
        data = put("1", 1, 10)
        (data / "0" / "up").symlink_to(data)
        (data / "0" / "self").symlink_to(data / "0")
        (data / "loop").symlink_to(data)
        manifest, rejected, _ = read(data)
        assert Counter(record.label for record in manifest.records) == {"0": 10, "1": 10}
        assert {Path(item.path).name for item in rejected} == {"up", "self", "loop"}
        assert all("contains it" in item.reason or "listed already" in item.reason for item in rejected)

    def test_a_folder_that_is_reached_twice_counts_once(self, put):
        put("0", 0, 10)
        data = put("1", 1, 10)
        put("0/zebra", 2, 5)
        (data / "0" / "again").symlink_to(data / "0" / "zebra")
        manifest, rejected, _ = read(data)
        assert Counter(record.label for record in manifest.records) == {"0": 15, "1": 10}
        ((path, reason),) = [(item.path, item.reason) for item in rejected]
        assert path == str(data / "0" / "again")
        assert str(data / "0" / "zebra") in reason


class TestShares:
    def test_that_cannot_be_kept_are_told(self, put):
        for label in (0, 1):
            data = put(str(label), label, 40)
        files = sorted(data.rglob("*.png"))
        rows = [f"{path},{path.parent.name},{'big' if i % 40 < 34 else i}" for i, path in enumerate(files)]
        _, _, lines = read(table(data, rows, "path,label,group"))
        (line,) = [line for line in lines if line.startswith("test has")]
        assert "not 15 %" in line
        assert "groups and copies stay whole" in line

    def test_many_classes_are_one_line(self, put, digits):
        for number in range(12):
            put(f"c{number}", number % 10, 2, start=2 * number)
        data = put("large", 5, 40, start=40)
        _, _, lines = read(data)
        for split in ("val", "test"):
            (line,) = [line for line in lines if f"have no {split} image" in line]
            assert line.startswith("12 classes")

    def test_kept_ones_are_not(self, digits):
        assert not any("not 15 %" in line for line in read(digits / "train")[2])
