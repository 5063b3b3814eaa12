"""Bundles of earlier versions, kept as they were written, are read, answer, and are served as they did."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from ts.context import Context

from marquee.handlers.core.bundle import Bundle, read_spec
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import read_golden, replay
from marquee.handlers.core.handler import Handler
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import SCHEMA_VERSION
from marquee.handlers.outputs.distance import read_distance
from marquee.serving.archive import package
from marquee.training.core.errors import OptimizeError
from marquee.training.core.progress import Progress
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.datasets import read_tables
from marquee.training.optimize.on_host import measure_on_host

BUNDLES = Path(__file__).parent.parent / "data" / "bundles"
KEPT = [("version-1", "fp32"), ("version-2", "fp32"), ("version-2", "openvino-fp32")]


@pytest.mark.parametrize(("version", "variant"), KEPT)
def test_it_answers_as_it_did(version, variant):
    predictor = Predictor.load(BUNDLES / version, variant=variant)
    assert replay(predictor) == []
    samples = read_golden(predictor.bundle, predictor.variant)
    for sample, answer in zip(samples, predictor.predict([one.data for one in samples]), strict=True):
        assert np.abs(answer.probabilities - sample.expected["probabilities"]).max() < 1e-6
        assert answer.distance == pytest.approx(sample.expected["distance"], abs=1e-4)
        assert answer.abstained == ("unfamiliar" if sample.expected["distance"] > 4 else None)
    assert predictor.predict([]) == []


@pytest.mark.parametrize("version", ["version-1", "version-2"])
def test_it_is_packaged_and_served(version, tmp_path, monkeypatch):
    archive = package(BUNDLES / version, "kept", "1.0", tmp_path)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    monkeypatch.setattr("marquee.handlers.core.handler._refuse_foreign_code", lambda folder: None)
    service = Handler()
    manifest = json.loads((tmp_path / "MAR-INF" / "MANIFEST.json").read_text())
    config = yaml.safe_load((tmp_path / "model-config.yaml").read_text())
    service.initialize(Context("kept", str(tmp_path), manifest, 2, None, "0", model_yaml_config=config))
    assert service.predictor.spec.schema_version == SCHEMA_VERSION


def test_what_is_written_of_it_is_of_today(tmp_path):
    spec = read_spec(BUNDLES / "version-2")
    (tmp_path / "spec.json").write_text(spec.to_json())
    assert json.loads(spec.to_json())["schema_version"] == SCHEMA_VERSION
    assert read_spec(tmp_path) == spec


def test_variants_are_made_from_the_tables_inside_its_program():
    bundle = Bundle.read(BUNDLES / "version-2")
    found, kept = read_tables(bundle), read_distance(bundle.folder / "variants" / "distance.npz")
    assert np.array_equal(found.whitening, kept.whitening)
    assert np.array_equal(found.means, kept.means)


@pytest.mark.slow
def test_measuring_an_older_archive_leaves_it_readable_by_its_own_code(tmp_path):
    """Its handler knows version 2 only: nothing but measurements and rankings may be new in its spec.json."""
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLES / "version-2", folder)
    before = json.loads((folder / "spec.json").read_text())
    config = OptimizeConfig(rounds=1, seconds=0.05, max_accuracy_drop=0.9)
    measure_on_host(folder, config, "cpu", Progress(quiet=True))
    after = json.loads((folder / "spec.json").read_text())
    assert after["rankings"]
    assert all(variant.pop("measurements") for variant in after["variants"])
    for variant in before["variants"]:
        variant.pop("measurements")
    assert {**after, "rankings": []} == before


def test_the_oldest_archive_is_refused_before_it_is_measured(tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLES / "version-1", folder)
    before = (folder / "spec.json").read_bytes()
    with pytest.raises(OptimizeError, match="cannot store measurements; package the run again"):
        measure_on_host(folder, OptimizeConfig(max_accuracy_drop=0.9), "cpu", Progress(quiet=True))
    assert (folder / "spec.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": 3}, "variants: expected a list, got int 3"),
        ({"variants": [3]}, "variants[0]: expected an object, got int 3"),
        ({"output": []}, "output: expected an object, got list"),
        ({"schema_version": 2.5}, "schema_version: expected int, got float 2.5"),
        ({"schema_version": 0}, "schema_version: this code reads 3, the bundle has 0"),
    ],
)
def test_damaged_ones_are_refused_by_field(change, message, tmp_path):
    document = json.loads((BUNDLES / "version-2" / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(BundleError) as caught:
        read_spec(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["features"], "outputs: expected logits, with or without features, got features"),
        (["logits", "logits"], "outputs: expected different names, got logits, logits"),
        (["logits", "heat"], "outputs: expected logits, with or without features, got logits, heat"),
        (["logits", "features"], "gives features, but has no distance.npz to measure them by"),
    ],
)
def test_outputs_that_cannot_be(outputs, message, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLES / "version-1", folder)
    document = json.loads((folder / "spec.json").read_text())
    document["variants"][0]["outputs"] = outputs
    (folder / "spec.json").write_text(json.dumps({**document, "schema_version": 3}))
    with pytest.raises(BundleError) as caught:
        Predictor.load(folder)
    assert message in str(caught.value)


def test_golden_answers_need_no_files_of_their_variant(tmp_path):
    """An archive leaves out the files of variants that may not be served, and is verified all the same."""
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLES / "version-2", folder)
    shutil.rmtree(folder / "variants")
    bundle = Bundle.read(folder)
    for variant in bundle.spec.variants:
        output = bundle.spec.output.create(variant, None)
        for sample in read_golden(bundle, variant):
            assert output.difference(sample.expected, sample.expected, variant.tolerance) is None


def test_what_is_missing_in_an_earlier_version_is_named(tmp_path):
    for name in ("output", "variants", "golden"):
        document = json.loads((BUNDLES / "version-2" / "spec.json").read_text())
        del document[name]
        (tmp_path / "spec.json").write_text(json.dumps(document))
        with pytest.raises(BundleError, match=f"{name}: missing"):
            read_spec(tmp_path)


def test_a_threshold_of_a_variants_own_is_not_dropped(tmp_path):
    """No version has written one; what was changed by hand is refused, and not served by another threshold."""
    document = json.loads((BUNDLES / "version-2" / "spec.json").read_text())
    document["variants"][1]["output"] = {**document["output"], "top_k": document["output"]["top_k"] + 1}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"variants\[1\]\.output: unknown field"):
        read_spec(tmp_path)
