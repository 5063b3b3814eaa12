"""A model that answers differently is not served: not at load, and not over the wire."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
import torch
from ts.model_loader import TsModelLoader

from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor


def change_one_weight(bundle: Path) -> None:
    """Adds to one number in the classifier's weights inside ``model.pt2``, leaving everything else as it is."""
    path = bundle / "model.pt2"
    with zipfile.ZipFile(path) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    config = next(json.loads(data) for info, data in members.items() if info.filename.endswith("_weights_config.json"))
    entry = next(value for key, value in config["config"].items() if "head.bias" in key)
    target = next(info for info in members if info.filename.endswith(f"/{entry['path_name']}"))
    import numpy as np

    values = np.frombuffer(members[target], np.float32).copy()
    values[0] += 3.0
    members[target] = values.tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, data in members.items():
            archive.writestr(info, data)


def renew_digest(bundle: Path) -> None:
    """Makes the digest fit again, as somebody would who wants the change to go unnoticed."""
    spec = json.loads((bundle / "spec.json").read_text())
    spec["variants"][0]["files"]["model.pt2"] = sha256_file(bundle / "model.pt2")
    (bundle / "spec.json").write_text(json.dumps(spec))


def rewrite(archive: Path, target: Path, edit) -> None:
    """Copies a .mar with ``edit`` applied to its unpacked folder."""
    folder = target.parent / "unpacked"
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder)
    edit(folder)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.write(path, path.relative_to(folder))
    shutil.rmtree(folder)


def start(script, store, state, port):
    return script("serve", "start", "digits", "--store", store, "--state", state, "--port", port, check=False)


def assert_nothing_runs(state: Path) -> None:
    assert not (state / "server.json").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(state) in " ".join(p.info["cmdline"] or [])]


def test_the_replay_notices_one_weight(run, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(run / "bundle", bundle)
    assert replay(Predictor.load(bundle)) == []
    change_one_weight(bundle)
    renew_digest(bundle)
    differences = replay(Predictor.load(bundle))
    assert differences
    assert "golden/0" in differences[0]
    assert "tolerance 0.0001" in differences[0]


@pytest.mark.slow
def test_a_changed_weight_is_refused_at_load(store, script, tmp_path, free_port):
    def edit(folder):
        change_one_weight(folder / "bundle")
        renew_digest(folder / "bundle")

    rewrite(store / "digits.mar", tmp_path / "digits.mar", edit)
    result = start(script, tmp_path, tmp_path / "state", free_port)
    assert result.returncode == 1
    assert "digits is not served" in result.stderr
    assert "golden answers differ from evaluation's; first: golden/0" in result.stderr
    assert "Traceback" not in result.stderr
    assert_nothing_runs(tmp_path / "state")


@pytest.mark.slow
def test_a_changed_weight_is_refused_over_the_wire(store, script, tmp_path, free_port):
    """An archive whose handler does not check itself: the second replay, by serve.py, still sees the difference."""

    def edit(folder):
        change_one_weight(folder / "bundle")
        renew_digest(folder / "bundle")
        handler = folder / "handlers" / "core" / "handler.py"
        code = handler.read_text()
        assert "            verify_golden(loaded)\n" in code
        handler.write_text(code.replace("            verify_golden(loaded)\n", ""))

    rewrite(store / "digits.mar", tmp_path / "digits.mar", edit)
    result = start(script, tmp_path, tmp_path / "state", free_port)
    assert result.returncode == 1
    assert "digits over REST: golden/0" in result.stderr
    assert "digits over gRPC: golden/0" in result.stderr
    assert "the server is stopped" in result.stderr
    assert_nothing_runs(tmp_path / "state")


def load(archive: Path, folder: Path) -> None:
    """Loads an archive as TorchServe's worker does, with its loader."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    handler = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["handler"]
    threads, imported = torch.get_num_threads(), set(sys.modules)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            TsModelLoader().load("digits", str(folder), handler, batch_size=1)
    finally:
        torch.set_num_threads(threads)
        for name in set(sys.modules) - imported:
            if name.startswith(("_marquee_archive", "image_classification_")):
                del sys.modules[name]


def test_what_is_not_damaged_is_loaded(store, tmp_path):
    rewrite(store / "digits.mar", tmp_path / "digits.mar", lambda folder: None)
    load(tmp_path / "digits.mar", tmp_path / "model")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda folder: change_one_weight(folder / "bundle"), "digits is not served: .*model.pt2: sha256 is"),
        (lambda folder: (folder / "bundle" / "spec.json").write_text("{"), "spec.json: not readable as JSON"),
        (lambda folder: (folder / "bundle" / "model.pt2").unlink(), "model.pt2: missing"),
        (
            lambda folder: (folder / "handlers" / "inputs" / "image" / "decode.py").write_text("import absent_library"),
            "digits is not served: it needs a library that this server does not have: .*absent_library",
        ),
        (
            lambda folder: (folder / "handlers" / "core" / "payload.py").write_text("import absent_library"),
            "the handler needs a library that this server does not have: .*absent_library",
        ),
    ],
    ids=["digest", "spec", "weights", "library of the input", "library"],
)
def test_other_damage_says_what_it_is(edit, message, store, tmp_path):
    rewrite(store / "digits.mar", tmp_path / "digits.mar", edit)
    with pytest.raises(RuntimeError, match=message):
        load(tmp_path / "digits.mar", tmp_path / "model")
