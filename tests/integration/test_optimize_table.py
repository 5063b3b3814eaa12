"""scripts/optimize.py on runs of tables: measured, refused where float32 is not enough, packaged and served."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from marquee.handlers.core.bundle import Bundle, read_spec, sha256_file, verify_files
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import verify_golden
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.task import task_for
from marquee.training.tasks.tabular.manifest import read_manifest
from tests.integration.test_package import pickles_in
from tests.table_forms import TARGET, as_csv, features, houses, write_csv

pytestmark = pytest.mark.slow  # what they share takes that long to make

FAST = ["--rounds", 2, "--seconds", 0.05, "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("optimized-table")
    write_csv(folder / "houses.csv", houses())
    return folder


@pytest.fixture(scope="module")
def run(folder, script) -> Path:
    """A network for the prices of houses, with variants."""
    data = ["--data", folder / "houses.csv", "--target", TARGET, "--out", folder / "run"]
    script("train", "--task", "tabular-regression", *data, "--model.name", "mlp", "--loop.epochs", 4)
    found = json.loads(script("optimize", folder / "run", *FAST, "--json").stdout)
    assert set(found["variants"]) == {"fp32", "openvino-fp32"}
    assert found["left_out"] == {}
    return folder / "run"


@pytest.fixture(scope="module")
def archive(run, script, folder) -> Path:
    script("package", run, "--name", "houses", "--store", folder / "store")
    return folder / "store" / "houses.mar"


def test_both_variants_are_measured(run):
    spec, bundle = read_spec(run / "bundle"), run / "bundle"
    verify_files(bundle, spec.files)
    written = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert written == {*spec.files, "spec.json"}
    assert [found for name in written for found in pickles_in(name, (bundle / name).read_bytes())] == []
    r2 = spec.provenance["metrics"]["r2"]
    for variant in spec.variants:
        one = variant.measurements[-1]
        assert one.images == len(read_manifest(run / "manifest.csv").split("test"))
        assert one.accuracy == pytest.approx(r2, abs=1e-4)
        assert abs(one.drop) < 1e-4
        assert one.drop_interval[0] <= one.drop <= one.drop_interval[1]
        assert one.agreement == 1
        assert one.difference < variant.tolerance
        assert list(one.images_per_second) == ["1", "8", "32", "4096"]
        assert 0 < one.latency_p50_ms <= one.latency_p99_ms
        assert one.kernels["fp32"] == sum(one.kernels.values()) == 4
    assert {variant.calibration is None for variant in spec.variants} == {True, False}


def test_both_give_the_same_answers(run):
    bundle = Bundle.read(run / "bundle")
    task, spec = task_for(bundle.spec), bundle.spec
    (arrays,) = task.batches(spec, read_manifest(run / "manifest.csv").records, 0)
    first, other = (
        Predictor.load(run / "bundle", variant=variant.name, verify=verify_golden) for variant in spec.variants
    )
    for inputs in (arrays, task.edges(spec)):
        for expected, found in zip(first.predict_arrays(inputs), other.predict_arrays(inputs), strict=True):
            assert other.output.difference(expected.golden(), found.golden(), 1e-4) is None
    strange = {name: values[:1].copy() for name, values in arrays.items()}
    strange["numbers"][0, 0] = 1e300
    assert all(np.isfinite(each.predict_arrays(strange)[0].value) for each in (first, other))


def test_the_table_is_about_rows(run, script, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    options = ["--variants", "openvino-int8", "bf16", *FAST]
    shown = script("optimize", tmp_path / "run", *options).stdout
    assert "R2" in shown
    assert "rows/s 1" in shown
    for kind in ("openvino-int8", "bf16"):
        assert f"left out: {kind}: for this model there are only openvino-fp32, compiled-fp32" in shown
    assert "chosen here: fp32" in shown
    failed = script("optimize", tmp_path / "run", "--prune.keep", 0.5, check=False)
    assert failed.returncode == 1
    assert "networks for tabular-regression cannot be pruned" in failed.stderr


def test_a_variant_that_loses_digits_is_left_out(folder, script):
    """The target is so far from zero that a float32 cannot tell its values apart."""
    rows = [{**row, TARGET: row[TARGET] + 2e9} for row in houses()]
    write_csv(folder / "far.csv", rows)
    data = ["--no-report", "--data", folder / "far.csv", "--target", TARGET, "--out", folder / "far"]
    script("train", "--task", "tabular-regression", *data)
    found = json.loads(script("optimize", folder / "far", *FAST, "--json").stdout)
    assert found["chosen"] == "fp64"
    assert found["ranking"]["order"] == ["fp64"]
    assert "not exact enough for this model" in found["left_out"]["openvino-fp32"]
    assert "answers differ from those of fp64" in found["left_out"]["openvino-fp32"]


def test_on_host_measures_without_the_data(archive, script, tmp_path):
    own = tmp_path / "houses.mar"
    shutil.copyfile(archive, own)
    found = json.loads(script("optimize", "--on-host", own, *FAST, "--json").stdout)
    before, after = (json.loads(zipfile.ZipFile(path).read("bundle/spec.json")) for path in (archive, own))
    assert set(found["variants"]) == {"fp32", "openvino-fp32"}
    assert len(after["rankings"]) == 1
    assert after["rankings"][0]["order"][0] == found["chosen"]
    for old, new in zip(before["variants"], after["variants"], strict=True):
        assert new["measurements"][-1]["accuracy"] == old["measurements"][-1]["accuracy"]


def test_a_changed_weight_of_a_variant_is_refused(run, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(run / "bundle", bundle)
    document = json.loads((bundle / "spec.json").read_text())
    variant = next(one for one in document["variants"] if one["name"] == "openvino-fp32")
    name = next(name for name in variant["files"] if name.endswith(".bin"))
    weights = bytearray((bundle / name).read_bytes())
    middle = len(weights) // 8 * 4
    weights[middle : middle + 4] = np.float32(1e6).tobytes()
    (bundle / name).write_bytes(weights)
    variant["files"][name] = sha256_file(bundle / name)
    (bundle / "spec.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="golden answers differ"):
        Predictor.load(bundle, variant="openvino-fp32", verify=verify_golden)
    assert Predictor.load(bundle, verify=verify_golden).variant.name == "fp32"


def test_the_fastest_variant_is_served(archive, run, script, tmp_path, free_port):
    state = tmp_path / "server"
    start = ["--store", archive.parent, "--state", state, "--port", free_port, "--json"]
    started = json.loads(script("serve", "start", "houses", *start).stdout)
    try:
        assert started["differences"] == []
        from marquee.serving import server

        rows = features(houses(20, seed=7))
        answer = server.find(state).client().predict("houses", as_csv(rows)).body
        best = read_spec(run / "bundle").rankings[-1].order[0]
        assert answer["model"]["variant"] == best
        expected = Predictor.load(run / "bundle", variant=best).answer(as_csv(rows))
        for got, wanted in zip(answer["predictions"], expected, strict=True):
            assert got["value"] == pytest.approx(wanted.value, rel=1e-5)
            assert got["unfamiliar"] == list(wanted.unfamiliar)
    finally:
        script("serve", "stop", "--state", state)
