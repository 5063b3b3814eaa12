"""Files of class names as libraries and tools write them; what is ambiguous in one is refused with its line."""

import json

import pytest

from marquee.training.core.errors import TrainingError
from marquee.training.importing.labels import read_labels

PETS = ("cat", "dog", "sea lion")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "cat\ndog\nsea lion\n\n"),
        ("labels.txt", "0 cat\n1 dog\n2 sea lion\n"),
        ("labels.txt", "0: cat\n1: dog\n2: sea lion"),
        ("labels.txt", "2 sea lion\n0 cat\n1 dog\n"),
        ("labels.txt", "\ufeff0\tcat\r\n1\tdog\r\n2\tsea lion\r\n"),
        ("labels.csv", "index,name\n0,cat\n1,dog\n2,sea lion\n"),
        ("labels.csv", "name,index\nsea lion,2\ncat,0\ndog,1\n"),
        ("labels.csv", '0;cat\n1;dog\n2;"sea lion"\n'),
        ("labels.tsv", "id\tlabel\n0\tcat\n1\tdog\n2\tsea lion\n"),
        ("labels.json", '["cat", "dog", "sea lion"]'),
        ("id2label.json", '{"1": "dog", "0": "cat", "2": "sea lion"}'),
        ("class_indices.json", '{"sea lion": 2, "cat": 0, "dog": 1}'),
        ("config.json", json.dumps({"num_channels": 3, "id2label": {str(i): name for i, name in enumerate(PETS)}})),
        ("config.json", json.dumps({"label2id": {name: i for i, name in enumerate(PETS)}}, indent=2)),
        ("config.json", json.dumps({"num_classes": 3, "label_names": PETS})),
        ("metadata.json", json.dumps({"tfjsVersion": "1.3.1", "labels": PETS})),
    ],
)
def test_forms_that_are_read(name, text, tmp_path):
    (tmp_path / name).write_text(text, "utf-8", newline="")
    assert read_labels(tmp_path / name) == PETS


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("7 up\ncola\nfanta\n", ("7 up", "cola", "fanta")),
        ("Class 1\nClass 2\n", ("Class 1", "Class 2")),
        ("0\n1\n2\n", ("0", "1", "2")),
        (
            "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius\n",
            ("n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius"),
        ),
        ('{"0": 0, "1": 1, "10": 2}', ("0", "1", "10")),
        ('{"1": "0", "0": "9"}', ("9", "0")),
        ("Cafe\u0301\nTee\n", ("Caf\u00e9", "Tee")),
    ],
)
def test_names_with_numbers_and_commas_stay_whole(text, names, tmp_path):
    (tmp_path / "labels").write_text(text, "utf-8")
    assert read_labels(tmp_path / "labels") == names


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "0 cat\n2 dog\n", r"no entry has the index 1, but line 2 has 2 \('dog'\)"),
        ("l.txt", "0 cat\n1 dog\n1 sea lion\n", "line 3 gives the index 1 to 'sea lion', and line 2 to 'dog'"),
        ("l.txt", "1 cat\n2 dog\n", "line 1 has 1 .*counted from 0: subtract 1"),
        ("l.txt", "0 cat\n1 dog\nsea lion\n", r"line 3 \('sea lion'\) has no index"),
        ("l.txt", "10 euro\n20 euro\n", "JSON list if the numbers are part of the names"),
        ("l.txt", "0 cat\n1 cat\n", "'cat' occurs twice, as lines 1 and 2"),
        ("l.csv", "index,name\n0,cat\n1,dog\n3,sea lion\n", "line 4 has 3"),
        ("l.csv", "index,name\n0,cat\n0,dog\n", "line 3 gives the index 0 to 'dog', and line 2"),
        ("l.csv", "0,n02,cat\n1,n03,dog\n", "line 1 has 3 columns"),
        ("l.csv", "0,cat\nx,dog\n2,sea lion\n", "line 2 has the index 'x'"),
        ("l.csv", "0,cat\n1,\n", "line 2 is empty"),
        ("l.csv", "cat,Katze\ndog,Hund\n", "its rows have no index"),
        ("l.json", '{\n"0": "cat",\n"2": "dog"\n}', "line 3 has 2"),
        ("l.json", '{\n"cat": 0,\n"dog": 0\n}', "line 3 gives the index 0 to 'dog', and line 2 to 'cat'"),
        ("l.json", '{\n"cat": 0,\n"dog": 1,\n"cat": 2\n}', "'cat' occurs twice, as lines 2 and 4"),
        ("l.json", '{"cat": -1, "dog": 0}', "counted from 0"),
        ("l.json", '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}', "got '0' and .*tench"),
        ("l.json", '{"architectures": ["ResNet"], "depths": [2]}', "has none of the members id2label, label2id"),
        ("l.json", '{"id2label": {"0": "a", "1": "b"},\n"label2id": {"a": 1, "b": 0}}', "label2id gives it 1 .line 2"),
        ("l.txt", "{0: 'cat', 1: 'dog'}", "starts like a JSON object, but is not valid.*json.dump"),
        ("l.yaml", "names: [cat, dog]", "is YAML, which is not read; write one class name per line"),
    ],
)
def test_indices_and_forms_that_are_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainingError, match=message) as error:
        read_labels(tmp_path / name)
    assert "\n" not in str(error.value)
