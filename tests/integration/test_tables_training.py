"""Training and evaluation on tables as a user runs them: odd data, interruptions, wrong arguments."""

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

import marquee
from marquee.handlers.outputs.outside import OUTSIDE
from tests.conftest import ROOT, Once, Script
from tests.forked import Forked
from tests.table_forms import (
    as_csv,
    features,
    flowers,
    houses,
    jsonable,
    make_models,
    write_csv,
    write_parquet,
)

REGRESSION = ("--no-report", "--task", "tabular-regression", "--target", "price")


@pytest.fixture(scope="session")
def folder(once: Once, script: Script) -> Path:
    """Data, runs and archives of :func:`tests.table_forms.make_models`."""
    return once("tables", lambda folder: make_models(folder, script))


def weights(run: Path) -> dict:
    """The tensors of a run's last checkpoint."""
    name = (run / "checkpoints" / "last").read_text().strip()
    return safetensors.torch.load_file(run / "checkpoints" / name / "weights.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    """The weights and the exported programs of two runs are equal to the last bit."""
    ours, others = weights(first), weights(second)
    assert ours.keys() == others.keys()
    assert [name for name in ours if not ours[name].equal(others[name])] == []
    assert (first / "bundle" / "model.pt2").read_bytes() == (second / "bundle" / "model.pt2").read_bytes()


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class TestRun:
    def test_a_run_holds_what_it_promises(self, folder):
        run = folder / "runs" / "houses"
        assert {"bundle", "checkpoints", "config.yaml", "evaluation.json", "manifest.csv", "metrics.jsonl"} <= {
            path.name for path in run.iterdir()
        }
        manifest = read(run / "manifest.csv")
        assert len(manifest) == 240
        assert {split: sum(row["split"] == split for row in manifest) for split in ("train", "val", "test")} == {
            "train": 168,
            "val": 36,
            "test": 36,
        }
        evaluation = json.loads((run / "evaluation.json").read_text())
        assert (evaluation["split"], evaluation["rows"]) == ("test", 36)
        assert evaluation["rmse"] < 7  # the noise has a deviation of 5
        spec = json.loads((run / "bundle" / "spec.json").read_text())
        assert spec["task"] == "tabular-regression"
        kinds = {column["name"]: (column["role"], column["kind"]) for column in spec["input"]["columns"]}
        assert kinds == {
            "floor area": ("feature", "number"),
            "rooms": ("feature", "number"),
            "town": ("feature", "category"),
            "built": ("feature", "date"),
            "garden": ("feature", "boolean"),
            "energy": ("feature", "number"),
            "price": ("target", "number"),
        }

    def test_predictions_are_the_predictors(self, folder):
        predictor = marquee.load(folder / "runs" / "houses")
        sent = {row["path"]: row["row"] for row in read(folder / "runs" / "houses" / "manifest.csv")}
        lines = read(folder / "runs" / "houses" / "predictions.csv")
        for line, answer in zip(lines, predictor.predict([sent[line["path"]].encode() for line in lines]), strict=True):
            assert answer.value == pytest.approx(float(line["value"]), abs=1e-9)

    def test_classes(self, folder):
        evaluation = json.loads((folder / "runs" / "flowers" / "evaluation.json").read_text())
        assert evaluation["accuracy"] > 0.85
        spec = json.loads((folder / "runs" / "flowers" / "bundle" / "spec.json").read_text())
        assert spec["output"]["labels"] == ["a", "b", "c"]

    @pytest.mark.parametrize("kind", ["parquet", "semicolons", "api"])
    def test_the_same_rows_train_the_same_model(self, folder, script, tmp_path, kind):
        """Out of whichever file, and by the command or the API."""
        out, rows = tmp_path / "run", houses()
        if kind == "api":
            metrics = marquee.train(folder / "houses.csv", out, task="tabular-regression", table={"target": "price"})
            assert metrics["rmse"] == json.loads((out / "evaluation.json").read_text())["rmse"]
        elif kind == "parquet":
            script("train", *REGRESSION, "--data", write_parquet(tmp_path / "houses.parquet", rows), "--out", out)
        else:
            (tmp_path / "houses.csv").write_bytes(as_csv(rows, separator=";", decimal=",").replace(b"\n", b"\r\n"))
            text = (tmp_path / "houses.csv").read_bytes().replace(b"Am\r\n", b"Am\n")
            (tmp_path / "houses.csv").write_bytes(text)
            script("train", *REGRESSION, "--data", tmp_path / "houses.csv", "--out", out)
        assert_same_weights(folder / "runs" / "houses", out)
        body = as_csv(features(houses(40, seed=7)))
        first, second = (marquee.load(run) for run in (folder / "runs" / "houses", out))
        arrays = [
            predictor.input.collate(predictor.input.opener().items(body)[0]).inputs for predictor in (first, second)
        ]
        ours, others = first.outputs(arrays[0]), second.outputs(arrays[1])
        for name in ("value", OUTSIDE):
            assert np.array_equal(ours[name], others[name])

    def test_bad_rows_are_listed_with_their_lines(self, script, tmp_path):
        rows = [dict(row) for row in houses(60)]
        rows[4]["rooms"] = "three"
        rows[9]["price"] = None
        rows[11]["built"] = "2001-02-30"
        text = as_csv(rows) + b'1,2\n1,2,"x"y,2001-01-01,no,3,900\n'
        (tmp_path / "houses.csv").write_bytes(text)
        result = script("train", *REGRESSION, "--data", tmp_path / "houses.csv", "--out", tmp_path / "run")
        rejected = {row["path"]: row["reason"] for row in read(tmp_path / "run" / "rejected.csv")}
        lines = {4: 7, 9: 13, 11: 15}  # a quoted town in every fourth row has a line break
        path = "houses.csv"
        assert set(rejected) == {f"{path}:{line}" for line in (*lines.values(), 77, 78)}
        assert "'rooms'" in rejected[f"{path}:{lines[4]}"]
        assert "'price'" in rejected[f"{path}:{lines[9]}"]
        assert "no such date" in rejected[f"{path}:{lines[11]}"]
        assert "2 cells" in rejected[f"{path}:77"]
        assert "quote" in rejected[f"{path}:78"]
        assert "left out" in result.stderr
        assert len(read(tmp_path / "run" / "manifest.csv")) == 57

    def test_settings_of_the_table(self, script, tmp_path):
        """Groups stay whole, ignored columns are not asked for, and kinds and units are what is stated."""
        rows = [{"id": f"p{number // 4}", "note": f"n{number}", **row} for number, row in enumerate(houses(80))]
        write_csv(tmp_path / "h.csv", rows)
        options = "--table.group id --table.ignore note garden --table.kinds rooms category --table.units price EUR"
        script(
            "train", *REGRESSION, "--data", tmp_path / "h.csv", "--out", tmp_path / "run", *options.split()
        )  # fmt: skip
        splits: dict[str, set[str]] = {}
        for row in read(tmp_path / "run" / "manifest.csv"):
            splits.setdefault(row["group"], set()).add(row["split"])
        assert len(splits) == 20
        assert all(len(found) == 1 for found in splits.values())
        spec = json.loads((tmp_path / "run" / "bundle" / "spec.json").read_text())
        columns = {column["name"]: column for column in spec["input"]["columns"]}
        assert [name for name, column in columns.items() if column["role"] == "ignore"] == ["note", "garden"]
        assert columns["id"]["role"] == "group"
        assert columns["rooms"]["categories"] == [str(number) for number in range(1, 8)]
        assert columns["price"]["unit"] == "EUR"


class TestEvaluate:
    def test_another_file_and_its_predictions(self, folder, script, tmp_path):
        arguments = ("--data", folder / "more.csv", "--predictions", tmp_path / "p.csv", "--json")
        result = json.loads(script("evaluate", folder / "runs" / "houses", *arguments).stdout)
        assert result["rows"] == 60
        assert result["seen"] == {"train": 0, "val": 0, "measured": False}
        lines = read(tmp_path / "p.csv")
        assert len(lines) == 60
        errors = [float(line["value"]) - float(line["target"]) for line in lines]
        assert result["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
        inside = [float(line["low"]) <= float(line["target"]) <= float(line["high"]) for line in lines]
        assert result["coverage"] == pytest.approx(np.mean(inside))
        assert lines[1]["path"] == "more.csv:3"

    def test_rows_that_the_run_has_seen_are_left_out(self, folder, script):
        run, data = folder / "runs" / "houses", folder / "houses.csv"
        measured = json.loads((run / "evaluation.json").read_text())
        again = json.loads(script("evaluate", run, "--data", data, "--json").stdout)
        assert again["seen"] == {"train": 168, "val": 36, "measured": False}
        assert again["rows"] == 36
        assert again["rmse"] == pytest.approx(measured["rmse"], abs=1e-9)
        everything = json.loads(script("evaluate", run, "--data", data, "--json", "--seen").stdout)
        assert everything["rows"] == 240

    def test_rows_are_known_again_in_another_file(self, folder, script, tmp_path):
        data = write_parquet(tmp_path / "other.parquet", houses())
        result = json.loads(script("evaluate", folder / "runs" / "houses", "--data", data, "--json").stdout)
        assert result["seen"] == {"train": 168, "val": 36, "measured": False}

    def test_rows_that_differ_in_the_target_only_are_new(self, folder, script, tmp_path):
        data = write_csv(tmp_path / "h.csv", [{**row, "price": row["price"] + 1} for row in houses()])
        result = json.loads(script("evaluate", folder / "runs" / "houses", "--data", data, "--json").stdout)
        assert (result["rows"], result["seen"]) == (240, {"train": 0, "val": 0, "measured": False})

    def test_bad_rows_are_told_and_the_others_measured(self, folder, script, tmp_path):
        rows = [dict(row) for row in houses(20, seed=9)]
        rows[2]["rooms"], rows[5]["town"] = "x", "Atlantis"
        path = write_csv(tmp_path / "h.csv", rows)
        result = script("evaluate", folder / "runs" / "houses", "--data", path)
        assert "left out: h.csv:4: line 4, column 'rooms': expected a number" in result.stdout
        assert result.stdout.splitlines()[0].split()[:2] == ["rows", "19"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: write_csv(path, features(houses(9))), "has no column 'price', which the model predicts"),
            (lambda path: write_csv(path, flowers(9)), "has no column 'price'"),
            (lambda path: write_csv(path, [{"rooms": 1, "price": 2}] * 3), "column 'floor area' is missing"),
            (lambda path: path.write_bytes(b""), "the table is empty"),
            (lambda path: None, "No such file"),
        ],
        ids=["no target", "other table", "no features", "empty", "absent"],
    )
    def test_a_table_that_cannot_be_used(self, folder, script, tmp_path, make, message):
        make(tmp_path / "t.csv")
        result = script("evaluate", folder / "runs" / "houses", "--data", tmp_path / "t.csv", check=False)
        assert_one_line(result, 1, message)

    def test_an_unknown_label(self, folder, script, tmp_path):
        path = write_csv(tmp_path / "f.csv", [{**row, "species": "z"} for row in flowers(9, seed=2)])
        result = script("evaluate", folder / "runs" / "flowers", "--data", path, check=False)
        assert result.returncode == 1
        assert "'z'" in result.stderr
        assert "Traceback" not in result.stderr


def assert_one_line(result, code: int, message: str) -> None:
    """The command has ended with ``code``, and one line on stderr that has ``message`` in it."""
    assert result.returncode == code, result.stderr
    lines = result.stderr.splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.stderr


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--target", "prise"], 1, "--target: there is no column 'prise'; did you mean 'price'?"),
            (["--target", "town"], 1, "column 'town', the target: 240 of its 240 values are not numbers"),
            ([], 1, "no target; name the column to predict with --target COLUMN ('floor area', 'rooms', 'town'"),
            (["--target"], 2, "Missing value for argument"),
            (["--target", "price", "--task", "tabular-regresion"], 2, "--task: expected one of image-classification"),
            (["--target", "price", "--table.ignore", "tow"], 1, "there is no column 'tow'; did you mean 'town'?"),
            (["--target", "price", "--table.kinds", "town", "txt"], 2, "expected one of number"),
            (["--target", "price", "--table.ignore", "price"], 2, "a column has one role"),
            (["--target", "price", "--split.by", "group"], 2, "group needs the column of the groups"),
            (["--target", "price", "--model.name", "mpl"], 2, "invalid choice 'mpl'"),
            (["--target", "price", "--loop.epochs", "-3"], 2, "epochs: expected at least 0, got -3"),
            (["--target", "price", "--image.size", "3"], 2, "--image.size"),
            (["--target", "price", "--resume"], 1, "nothing to resume"),
        ],
    )
    def test_arguments_that_cannot_be_used(self, folder, script, tmp_path, arguments, code, message):
        task = () if "--task" in arguments else ("--task", "tabular-regression")
        start = ("--data", folder / "houses.csv", "--out", tmp_path / "run", *task)
        result = script("train", *start, *arguments, check=False)
        assert result.returncode == code, result.stderr
        assert message in " ".join(result.stderr.replace("│", " ").split())
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "the table is empty"),
            (b"a,price\n", "no rows"),
            (b"1,2\n3,4\n", "has numbers where the names of the columns are expected"),
            (b"a,a,price\n1,2,3\n4,5,6\n", "'a'"),
            (b"price\n1\n2\n", "feature"),
            (b"a,price\n" + b"1,7\n" * 30, "price"),
            (b"a;price\n" + b"1,234;5\n" * 30, "may be 1.234 or 1234"),
            (b"PK\x03\x04" + b"xl/" * 40, "a workbook of Excel"),
            (b"PAR1" + bytes(30) + b"PAR1", "Parquet"),
            (b"a,price\n\xff\xfe\x81,1\n", "encoding"),
        ],
        ids=["empty", "header only", "no header", "twice", "no features", "constant", "ambiguous", "Excel", "Parquet",
             "encoding"],
    )  # fmt: skip
    def test_data_that_cannot_be_used(self, script, tmp_path, content, message):
        (tmp_path / "t.csv").write_bytes(content)
        result = script("train", *REGRESSION, "--data", tmp_path / "t.csv", "--out", tmp_path / "run", check=False)
        assert_one_line(result, 1, message)
        assert str(tmp_path / "t.csv") in result.stderr
        assert not (tmp_path / "run").exists()

    def test_wrong_settings_of_the_api(self, folder, tmp_path):
        data = folder / "houses.csv"
        for settings, message in (
            ({"table": {"target": "prise"}}, "did you mean 'price'"),
            ({"table": {"taget": "price"}}, "taget"),
            ({"tabel": {"target": "price"}}, "tabel"),
            ({"table": {"target": "price"}, "loop": {"epochs": -3}}, "epochs: expected at least 0, got -3"),
        ):
            with pytest.raises(marquee.TrainingError, match=message):
                marquee.train(data, tmp_path / "run", task="tabular-regression", **settings)
        with pytest.raises(marquee.TrainingError, match="task: expected one of"):
            marquee.train(data, tmp_path / "run", task="tabular", table={"target": "price"})
        assert not (tmp_path / "run").exists()


class TestResume:
    """Interrupted and resumed equals uninterrupted, to the last bit."""

    ARGUMENTS = (
        "--model.name mlp --model.width 16 --loop.epochs 12 --loop.patience 0 --loop.batch-size 8 --augment.mixup 0.2 "
        "--augment.jitter 0.1 --loop.ema 0.9 --checkpoint.steps 3"
    ).split()

    def start(self, folder: Path, out: Path, *arguments: str) -> Forked:
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--out", str(out), *arguments]
        return Forked(command, stderr=-1, text=True, cwd=ROOT, start_new_session=True)

    @pytest.mark.slow
    def test_interrupted_in_every_way(self, folder, script, tmp_path):
        """Ctrl-C, then kill -9, each in the middle of an epoch: in the end nothing tells of it."""
        whole, out = tmp_path / "whole", tmp_path / "run"
        begin = (*REGRESSION, "--data", str(folder / "houses.csv"), *self.ARGUMENTS)
        script("train", *begin, "--out", whole)

        process = self.start(folder, out, *begin)
        wait_for(lambda: last(out), process)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"scripts/train.py --out {out} --resume" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr
        before = last(out)

        process = self.start(folder, out, "--resume")
        wait_for(lambda: last(out) != before, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL

        resumed = script("train", "--out", out, "--resume", "--no-report")
        assert "resuming from" in resumed.stderr
        assert_same_weights(whole, out)
        names = ("epoch", "train_loss", "val_loss", "val_rmse", "lr")
        lines = [
            [[json.loads(line)[name] for name in names] for line in (run / "metrics.jsonl").read_text().splitlines()]
            for run in (whole, out)
        ]
        assert lines[0] == lines[1]
        assert read(whole / "predictions.csv") == read(out / "predictions.csv")

    def test_a_finished_run_cannot_be_changed(self, folder, script):
        run = folder / "runs" / "houses"
        again = script("train", *REGRESSION, "--data", folder / "houses.csv", "--out", run, check=False)
        assert_one_line(again, 1, "exists already")
        refused = script("train", "--out", run, "--resume", "--table.ignore", "town", check=False)
        assert_one_line(refused, 1, "cannot resume with")


def last(out: Path) -> str:
    """The name of the last checkpoint, or nothing."""
    path = out / "checkpoints" / "last"
    return path.read_text().strip() if path.exists() else ""


def wait_for(condition, process: Forked, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_labels_are_spelled_as_in_the_file(script, tmp_path):
    """Also those of a column that is boolean as a feature."""
    rows = [{**row, "garden": row["price"] > 1050} for row in houses(120)]
    arguments = ("--task", "tabular-classification", "--target", "garden", "--loop.epochs", 40, "--json")
    data = write_csv(tmp_path / "h.csv", rows)
    metrics = json.loads(script("train", "--data", data, "--out", tmp_path / "run", *arguments).stdout)
    assert metrics["accuracy"] > 0.6
    predictor = marquee.load(tmp_path / "run")
    ordered = sorted(rows, key=lambda row: row["price"])
    answers = predictor.predict([json.dumps(jsonable(row)).encode() for row in (ordered[0], ordered[-1])])
    assert [answer.label for answer in answers] == ["no", "yes"]
