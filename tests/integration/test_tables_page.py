"""A shell runs the commands of docs/tables.md in their order; the page shows what they answer."""

import csv
import json
import re

import pytest

from tests.conftest import ROOT
from tests.pages import run_commands

PAGE = (ROOT / "docs" / "tables.md").read_text()


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path):
    folder, programs = tmp_path / "my tables", tmp_path / "bin"  # with a space, as folders have
    folder.mkdir()
    programs.mkdir()
    text = run_commands(PAGE, folder, programs)
    assert "column 'id': ignored: looks like an identifier" in text
    assert re.search(r"test RMSE 1[345]\d{3}, R2 0\.9", text), text
    assert "32 golden answers equal" in text
    assert "stopped pid" in text
    with open(folder / "answers.csv", newline="") as stream:
        answers = list(csv.DictReader(stream))
    assert len(answers) == 300
    assert not any(answer["error"] for answer in answers)
    assert {part["column"] for part in json.loads((folder / "reason.json").read_text())["contributions"]} == {
        *("area", "heating", "garden", "built")
    }


def test_the_answers_on_the_page_agree():
    """The same row has the same value wherever the page shows it."""
    assert len(re.findall(r"\b232379\.8960915382\b|\b232380\b", PAGE)) == 2
    assert len(re.findall(r"\b229831\.68837036606\b", PAGE)) == 2
