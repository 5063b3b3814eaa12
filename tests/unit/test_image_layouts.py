"""Folders that are no data set of class folders, and tables as people have them."""

import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.places import check_apart
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.config import ChecksConfig
from marquee.training.tasks.image_classification.data.scan import scan
from marquee.training.tasks.tabular.read import read_table
from marquee.training.tasks.tabular.table_config import TableConfig

QUIET = Progress(quiet=True)


@pytest.fixture
def tree(digits, tmp_path):
    """Makes folders with three different digits each; of a name with a suffix, a file."""
    source = iter(sorted((digits / "train").rglob("*.png")))

    def make(*places: str) -> Path:
        for place in places:
            target = tmp_path / "data" / place
            if target.suffix:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text("path,label\n" if target.suffix == ".csv" else "text")
                continue
            target.mkdir(parents=True, exist_ok=True)
            for _ in range(3):
                path = next(source)
                shutil.copyfile(path, target / f"{path.parent.name}-{path.name}")
        return tmp_path / "data"

    return make


def refusal(data: Path, **checks: str) -> str:
    with pytest.raises(DataError) as caught:
        scan(data, 10**6, QUIET, checks=ChecksConfig(**checks))
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestLayouts:
    @pytest.mark.parametrize(
        ("places", "words"),
        [
            (["training_set/cats", "training_set/dogs", "test_set/cats", "test_set/dogs"], "rename test_set to test"),
            (["Train_data/cats", "Train_data/dogs", "valid/cats", "valid/dogs"], "--data {data}/Train_data"),
            (["val/cats", "val/dogs", "test/cats", "test/dogs"], "look like splits"),
            (["train_images", "test_images"], "hold no class folders"),
            (["cats_train", "cats_test", "dogs_train", "dogs_test"], "names of splits in them"),
            (["fold1/a", "fold1/b", "fold2/a", "fold2/b"], "--data {data}/fold1"),
            (["Fold_01", "Fold_02", "Fold_03"], "folds of a cross-validation"),
            (["images", "masks"], "{data}/images"),
            (["images/cats", "images/dogs", "annotations"], "did you mean --data {data}/images?"),
            (["train/images", "train/labels", "val/images", "val/labels"], "{data}/train/images"),
            (["JPEGImages", "Annotations", "SegmentationClass", "ImageSets"], "{data}/JPEGImages"),
            (["part_a/cats", "part_a/dogs", "part_b/cats", "part_b/dogs"], "did you mean --data {data}/part_a?"),
            (["cats/train", "cats/val", "dogs/train", "dogs/val"], "the other way round: {data}/train/cats"),
        ],
    )
    def test_what_is_no_class_is_refused(self, tree, places, words):
        data = tree(*places)
        message = refusal(data)
        assert words.format(data=data) in message
        assert "--checks.layout allow" in message
        manifest, _ = scan(data, 10**6, QUIET, checks=ChecksConfig(layout="allow"))
        assert len(manifest.records) == 3 * len(places)

    @pytest.mark.parametrize(
        "places",
        [
            ["cats/indoors", "cats", "dogs/indoors", "dogs"],  # images of their own
            ["sick/patient1", "sick/patient2", "healthy/patient3", "healthy/patient4"],
            ["n01/images", "n02/images"],
            ["train", "bus"],
            ["mask", "no_mask"],
            ["photos", "drawings"],
            ["images", "cats"],
            ["test tube", "beaker"],
            ["Training shoes", "Boots"],
            ["part1", "part2"],
        ],
    )
    def test_what_may_be_classes_is_read(self, tree, places):
        manifest, rejected = scan(tree(*places), 10**6, QUIET)
        assert (len(manifest.records), rejected) == (3 * len(places), [])
        hinted = [line for line in manifest.warnings if "use a table with the column group" in line]
        assert len(hinted) == ("sick/patient1" in places)
        assert all("sick/patient1" in line or "healthy/patient3" in line for line in hinted)

    def test_folders_without_any_file(self, tree):
        data = tree("rose", "tulip")
        (data / "oak" / "leaves").mkdir(parents=True)
        assert "class 'oak' has no usable image" in refusal(data)
        assert "holds folders, but no files" in refusal(data)

    @pytest.mark.parametrize(
        ("places", "meant"),
        [
            (["flowers/rose", "flowers/tulip"], "flowers"),
            (["archive/flowers/rose", "archive/flowers/tulip", "archive/README.md"], "archive/flowers"),
            (["set/train/rose", "set/train/tulip", "set/test/rose", "set/test/tulip"], "set"),
            (["train/all/rose", "train/all/tulip"], "train/all"),
        ],
    )
    def test_one_level_too_high(self, tree, places, meant):
        data = tree(*places)
        assert f"did you mean --data {data / meant}?" in refusal(data)

    def test_one_level_too_low(self, tree):
        data = tree("rose", "tulip")
        message = refusal(data / "rose")
        assert "3 files lie directly in it" in message
        assert f"--data {data}?" in message

    def test_a_table_beside_the_images(self, tree):
        data = tree("images", "labels.csv")
        message = refusal(data)
        assert "in 1 classes" in message
        assert f"--data {data / 'labels.csv'}" in message

    def test_a_split_without_class_folders(self, tree):
        data = tree("train")
        assert f"3 files lie directly in {data / 'train'}, which has no class folders" in refusal(data)

    def test_archives(self, tree, tmp_path):
        data = tree("rose", "tulip")
        shutil.make_archive(str(tmp_path / "flowers"), "zip", data)
        assert "is an archive; unpack it" in refusal(tmp_path / "flowers.zip")
        shutil.move(tmp_path / "flowers.zip", tmp_path / "flowers")
        assert zipfile.is_zipfile(tmp_path / "flowers")
        assert "is an archive; unpack it" in refusal(tmp_path / "flowers")
        (tmp_path / "download").mkdir()
        shutil.move(tmp_path / "flowers", tmp_path / "download" / "flowers.zip")
        assert "unpack flowers.zip first" in refusal(tmp_path / "download")

    def test_other_files(self, tree):
        data = tree("rose", "tulip")
        image = next((data / "rose").iterdir())
        assert "is a file; expected a folder of class folders, or a table" in refusal(image)
        assert "no such folder" in refusal(data / "absent")

    def test_the_folder_of_an_earlier_run(self, tree):
        data = tree("rose", "tulip", "run1/bundle/golden")
        (data / "run1" / "config.yaml").write_text("")
        (data / "run1" / "manifest.csv").write_text("")
        assert f"{data / 'run1'} is the folder of a run" in refusal(data)


class TestApart:
    def test_a_run_in_its_data_and_data_in_its_run(self, tree, tmp_path):
        data = tree("rose", "tulip")
        (tmp_path / "link").symlink_to(data)
        for out in (data / "run", data / "rose" / "run", data, tmp_path / "link" / "run"):
            with pytest.raises(TrainingError, match=r"--out .*data set.*choose an --out outside of it"):
                check_apart(data, out)
        with pytest.raises(TrainingError, match="the data set, .*, lies in it"):
            check_apart(data, tmp_path)
        check_apart(data, tmp_path / "run")
        check_apart(data, tmp_path / "data-run")
        (data / "t.csv").touch()
        check_apart(data / "t.csv", data / "run")


class TestTables:
    @pytest.fixture
    def files(self, tree):
        return sorted(tree("a", "b").rglob("*.png"))

    @staticmethod
    def write(files, separator: str, header: list[str] | None, encoding: str = "utf-8", name: str = "t.csv") -> Path:
        rows = [] if header is None else [header]
        rows += [[f"{path.parent.name}/{path.name}", path.parent.name] for path in files]
        path = files[0].parent.parent / name
        path.write_bytes("".join(separator.join(row) + "\n" for row in rows).encode(encoding))
        return path

    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("header", [["path", "label"], ["Path", "LABEL"], [" path ", "Label "], None])
    def test_separators_and_headers(self, files, separator, header):
        manifest, rejected = scan(self.write(files, separator, header), 10**6, QUIET)
        assert Counter(record.label for record in manifest.records) == {"a": 3, "b": 3}
        assert rejected == []

    @pytest.mark.parametrize(("encoding", "name"), [("utf-8-sig", "t.csv"), ("utf-16", "t.csv"), ("utf-8", "t.tsv")])
    def test_encodings_and_suffixes(self, files, encoding, name):
        assert len(scan(self.write(files, "\t", ["path", "label"], encoding, name), 10**6, QUIET)[0].records) == 6

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("file,class\nx,y\n", "no column label and path; the first line has 'file', 'class'"),
            ("{0},a,train\n{1},b,train\n", "has no header: line 1 names a file; add a first line"),
            ("a,{0}\nb,{1}\n", "has no header: line 1 names a file"),
            ("path,label,Label\n{0},a,a\n", "two columns are called 'label'"),
            ("path,label\n{0},NaN\n{1},a\n{0},\n", "line 2 has no label ('NaN'); 2 rows in all cannot be used"),
            ("path,label\n\n{0},a\nnan,a\n", "line 4 has no path ('nan')"),
            ("path,label\n{0},a|<NA>\n", "line 2 has no label ('a|<NA>')"),
            ("path,label\n{0},cat, big\n", "line 2 has 3 cells, but the header has 2"),
            ('path,label\n{0},"cat\n{1},b\n', "line 2: the quote of a cell is not closed"),
            ("path,label,split\n{0},a,dunno\n", "line 2 has the split 'dunno'"),
            ("path,label\n", "has no rows"),
            ("", "the table is empty"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, files, text, words):
        path = files[0].parent.parent / "t.csv"
        path.write_text(text.format(files[0], files[-1]))
        message = refusal(path)
        assert words in message
        assert str(path) in message

    def test_what_means_nothing_is_no_fault(self, files):
        path = files[0].parent.parent / "t.csv"
        rows = [f"{name},{name.parent.name},{'' if i % 2 else 'NaN'},nan,," for i, name in enumerate(files)]
        path.write_text("\n".join(["path,label,split,group,,", *rows]))
        manifest, _ = scan(path, 10**6, QUIET)
        assert {(record.split, record.group) for record in manifest.records} == {("", "")}

    def test_names_that_look_like_nothing_are_names(self, files):
        """A class of things without a defect, and the code of a country."""
        path = files[0].parent.parent / "t.csv"
        names = {"a": "none", "b": "NA"}
        path.write_text("path,label\n" + "".join(f"{name},{names[name.parent.name]}\n" for name in files))
        assert scan(path, 10**6, QUIET)[0].labels == ("NA", "none")

    def test_a_parquet_table_with_a_missing_label(self, files):
        import pyarrow
        import pyarrow.parquet

        path = files[0].parent.parent / "t.parquet"
        for labels, words in (
            ([1.0, np.nan, 1.0, 2.0, 2.0, None], "row 2 has no label ('nan'); 2 rows in all"),
            (["a", "a", None, "b", "b", "b"], "row 3 has no label"),
        ):
            pyarrow.parquet.write_table(pyarrow.table({"Path": list(map(str, files)), "label": labels}), path)
            assert words in refusal(path)


class TestNames:
    @pytest.mark.parametrize("kind", ["folders", "table"])
    def test_compared_in_nfc_without_blanks(self, tree, kind):
        """As macOS and Linux write the same name; and with a blank behind it."""
        data = tree("Caf\u00e9", "Cafe\u0301", "Caf\u00e9 ", "tea")
        if kind == "table":
            files = sorted(data.rglob("*.png"))
            (data / "t.csv").write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in files))
            data = data / "t.csv"
        manifest, _ = scan(data, 10**6, QUIET)
        assert manifest.labels == ("Caf\u00e9", "tea")
        assert not any("differ only" in line for line in manifest.warnings)

    @pytest.mark.parametrize("pair", [("Cat", "cat"), ("Café", "Cafe"), ("cat 1", "cat_1"), ("Ａ1", "a1")])
    def test_twins_are_named(self, tree, pair):
        manifest, _ = scan(tree(*pair, "dog"), 10**6, QUIET)
        (line,) = [line for line in manifest.warnings if "differ only" in line]
        assert all(f"{name!r} (3 images)" in line for name in pair)

    def test_letters_of_other_scripts_are_no_twins(self, tree):
        manifest, _ = scan(tree("か", "が", "é", "o"), 10**6, QUIET)
        assert manifest.warnings == ()

    def test_twins_in_a_column_of_labels(self, tmp_path):
        lines = [f"{i},{('Cat', 'cat', 'dog')[i % 3]}" for i in range(60)]
        (tmp_path / "t.csv").write_text("\n".join(["x,y", *lines]))
        *_, schema = read_table(tmp_path / "t.csv", TableConfig(target="y"), "classification")
        assert any("the labels 'Cat', 'cat' differ only in capitals" in str(note) for note in schema.notes)
