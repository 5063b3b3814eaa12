"""scripts/package.py: what is in the archive, and that it is always the same."""

import io
import json
import pickletools
import re
import shutil
import zipfile

import pytest

from marquee.handlers.core.bundle import sha256_file
from tests.conftest import ROOT


def pickles_in(name: str, data: bytes) -> list[str]:
    """Names of everything in ``data``, itself and at any depth of zip, that is a pickle."""
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [
                found for member in archive.namelist() for found in pickles_in(f"{name}!{member}", archive.read(member))
            ]
    if data[:1] != b"\x80":
        return []
    try:
        for _ in pickletools.genops(data):
            pass
    except ValueError:
        return []
    return [name]


def test_the_archive_holds_bundle_handlers_and_configuration(store):
    with zipfile.ZipFile(store / "digits.mar") as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert {"bundle/spec.json", "bundle/model.pt2", "bundle/golden/expected.json", "model-config.yaml"} <= names
    ours = {p.relative_to(ROOT).as_posix() for p in (ROOT / "handlers").rglob("*.py")}
    assert ours == {name for name in names if name.startswith("handlers/")}
    assert re.fullmatch(r"image_classification_[0-9a-f]{12}\.py", manifest["model"]["handler"])
    assert manifest["model"]["modelVersion"] == "1.0"


def test_no_pickle_anywhere(store):
    assert pickles_in("digits.mar", (store / "digits.mar").read_bytes()) == []


def test_the_pickle_detector_detects(tmp_path):
    import pickle

    with zipfile.ZipFile(tmp_path / "inner", "w") as inner:
        inner.writestr("x", pickle.dumps({"a": 1}))
    with zipfile.ZipFile(tmp_path / "outer", "w") as outer:
        outer.write(tmp_path / "inner", "nested.pt2")
    assert pickles_in("m.mar", (tmp_path / "outer").read_bytes()) == ["m.mar!nested.pt2!x"]


def test_packaging_twice_gives_the_same_bytes(run, store, script, tmp_path):
    script("package", run, "--name", "digits", "--store", tmp_path)
    assert sha256_file(tmp_path / "digits.mar") == sha256_file(store / "digits.mar")
    script("package", run / "bundle", "--name", "digits", "--store", tmp_path)  # over the existing one
    assert sha256_file(tmp_path / "digits.mar") == sha256_file(store / "digits.mar")
    assert {path.name for path in tmp_path.iterdir()} == {"digits.mar", "digits-1.0.mar"}


def test_a_folder_of_the_same_name_in_the_temporary_folder_survives(run, script, tmp_path):
    """torch-model-archiver stages in TMPDIR/NAME and deletes what is there first."""
    mine = tmp_path / "tmp" / "digits"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("years of work")
    script("package", run, "--name", "digits", "--store", tmp_path / "store", TMPDIR=str(tmp_path / "tmp"))
    assert (mine / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["stage", "out", "model-config.yaml", "archiver", "a.b-c_d"])
def test_any_legal_name_can_be_packaged(name, run, tmp_path):
    from marquee.serving.archive import open_archive, package

    archive = package(run / "bundle", name, "1.0", tmp_path)
    with open_archive(archive) as folder:
        assert (folder / "spec.json").exists()


def test_a_bundle_without_golden_samples_is_not_served(run, tmp_path):
    from marquee.handlers.core.errors import BundleError
    from marquee.handlers.core.golden import replay
    from marquee.handlers.core.predictor import Predictor

    shutil.copytree(run / "bundle", tmp_path / "bundle")
    expected = tmp_path / "bundle" / "golden" / "expected.json"
    expected.write_text("[]")
    spec = json.loads((tmp_path / "bundle" / "spec.json").read_text())
    spec["golden"]["files"] = {"golden/expected.json": sha256_file(expected)}
    (tmp_path / "bundle" / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(BundleError, match="no golden samples"):
        replay(Predictor.load(tmp_path / "bundle"))


def test_a_damaged_bundle_is_not_packaged(run, script, tmp_path):
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    with open(tmp_path / "bundle" / "model.pt2", "r+b") as stream:
        stream.seek(1000)
        stream.write(b"\xff")
    result = script("package", tmp_path / "bundle", "--name", "x", "--store", tmp_path / "store", check=False)
    assert result.returncode == 1
    assert "model.pt2: sha256 is" in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent", "--name", "x"], 1, "neither a run nor a bundle"),
        (["RUN", "--name", "a b"], 1, "special characters"),
        (["RUN", "--name", "../x"], 1, "special characters"),
        (["RUN"], 2, "name"),
        (["RUN", "--name", "x", "--store", "/proc/nowhere"], 1, "cannot be written"),
    ],
)
def test_nonsense(arguments, code, message, run, script, tmp_path):
    arguments = [run if argument == "RUN" else argument for argument in arguments]
    result = script("package", *arguments, check=False, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
