"""`marquee predict` for folders, patterns, lists and standard input, with a real TorchServe."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.test_clients import assert_answers, one, rows

__all__ = ["one", "rows"]  # fixtures


@pytest.fixture
def photos(rows, tmp_path, monkeypatch) -> Path:
    """A folder with images in folders, and what else lies about."""
    monkeypatch.chdir(tmp_path)
    for i, row in enumerate(rows):
        folder = tmp_path / "photos" / f"{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row["path"], folder / f"{i:03d}.png")
    (tmp_path / "photos" / "notes.txt").write_text("nothing")
    return tmp_path


def expected_answers(rows: list[dict]) -> dict[str, dict]:
    return {str(Path("photos", f"{i % 3}", f"{i:03d}.png")): row for i, row in enumerate(rows)}


@pytest.mark.parametrize("extra", [[], ["--grpc"]])
def test_a_folder_to_csv(served, rows, photos, script, extra):
    result = script("predict", "digits", "photos", "--out", "out.csv", "--state", served.state, *extra, cwd=photos)
    assert result.stdout == f"out.csv: {len(rows)} answers\n"
    assert "left out, since they are not named as images: 1 files" in result.stderr
    with open(photos / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    expected = expected_answers(rows)
    assert [line["file"] for line in lines] == sorted(expected)
    for line in lines:
        row = expected[line["file"]]
        assert line["label"] == row["predicted"]
        assert float(line["probability"]) == pytest.approx(float(row[row["predicted"]]), abs=1e-4)
        assert line["error"] == ""


def test_a_pattern_and_a_list_to_json_lines(served, rows, photos, script):
    expected = expected_answers(rows)
    (photos / "list").write_text("".join(f"{name}\n" for name in expected))
    (photos / "bad.png").write_text("text")
    arguments = ["bad.png", "photos/0/*.png", "absent.png", "@list", "nothing*.png"]
    state = ("--state", served.state)
    out = ("--out", "out.jsonl", "--in-flight", 3)
    result = script("predict", "digits", *arguments, *out, *state, cwd=photos, check=False)
    assert result.returncode == 1
    total = len(expected) + len([name for name in expected if name.startswith("photos/0/")]) + 3
    assert f"3 of {total} failed (unreadable 2, not_an_image 1): bad.png, absent.png, nothing*.png" in result.stderr
    lines = [json.loads(line) for line in (photos / "out.jsonl").read_text().splitlines()]
    assert len(lines) == total
    assert (lines[0]["file"], lines[0]["error"]["code"]) == ("bad.png", "not_an_image")
    for line in lines:
        if "error" not in line:
            assert_answers(line, expected[line["file"]])


def test_lines_on_standard_output(served, rows, photos, script):
    state = ("--state", served.state)
    as_csv = script("predict", "digits", "photos", "--csv", *state, cwd=photos).stdout
    as_json = script("predict", "digits", "photos", "--json", *state, cwd=photos).stdout
    labels = [row["label"] for row in csv.DictReader(io.StringIO(as_csv))]
    assert labels == [json.loads(line)["label"] for line in as_json.splitlines()]
    assert len(labels) == len(rows)


def test_standard_input(served, one, photos):
    def ask(content: bytes) -> "subprocess.CompletedProcess[bytes]":
        command = [
            sys.executable,
            ROOT / "scripts" / "predict.py",
            "digits",
            "-",
            "--json",
            "--state",
            served.state,
        ]
        return subprocess.run(command, input=content, capture_output=True, cwd=photos, timeout=120)

    image = json.loads(ask(one["data"]).stdout)
    assert image["file"] == "-"
    assert_answers(image, one)
    (listed,) = ask(b"photos/0/000.png\0").stdout.splitlines()
    assert_answers(json.loads(listed), one)
    nothing = ask(b"")
    assert nothing.returncode == 1
    assert b"a list without files" in nothing.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--csv"], "--json and --csv"),
        (["--in-flight", "0"], "--in-flight 0: expected 1 to"),
        (["--out", "out.png"], "ends with one of .csv, .jsonl"),
        (["--explain", "out.png"], "explains the answer to one file"),
    ],
)
def test_usage(served, photos, script, arguments, message):
    result = script("predict", "digits", "photos", *arguments, "--state", served.state, cwd=photos, check=False)
    assert result.returncode == 2
    assert message in result.stderr
