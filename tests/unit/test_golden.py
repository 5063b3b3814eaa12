"""Golden answers of models that give labels are kept by label, and those of earlier versions are read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import read_golden, replay
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import EXPECTED_FILE, GoldenSpec, ModelSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.handlers.outputs.multi_label_classification import MultiLabelSpec
from marquee.training.core.golden_writer import write_answers

LABELS = ("bright", "dark")
OUTPUTS = [ClassificationSpec(labels=LABELS), MultiLabelSpec(labels=LABELS)]


def proven(folder: Path, spec: ModelSpec) -> Predictor:
    """A predictor of a bundle with golden samples of two plain pictures."""
    variant, names = spec.variants[0], [f"golden/{level}.png" for level in (1, 2)]
    (folder / "golden").mkdir()
    for level, name in enumerate(names, 1):
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(folder / name)
    bundle = Bundle(folder, spec)
    predictor = Predictor(bundle, variant, load_engine(bundle, variant, "cpu"))
    answers = predictor.predict([folder / name for name in names])
    entries = [{"file": name, **answer.golden()} for name, answer in zip(names, answers, strict=True)]
    files = {name: sha256_file(folder / name) for name in names} | write_answers(bundle, variant, entries)
    written = bundle.with_spec(replace(spec, golden=GoldenSpec(files=files))).write()
    return Predictor(written, variant, predictor.engine)


def with_answers(predictor: Predictor, change: Callable[[dict], object], labels: tuple[str, ...] = LABELS) -> Predictor:
    """The same model with another file of answers, and its labels in another order."""
    bundle = predictor.bundle
    document = change(json.loads((bundle.folder / EXPECTED_FILE).read_text("utf-8")))
    (bundle.folder / EXPECTED_FILE).write_text(json.dumps(document), "utf-8")
    files = bundle.spec.golden.files | {EXPECTED_FILE: sha256_file(bundle.folder / EXPECTED_FILE)}
    output = replace(bundle.spec.output, labels=labels)
    written = bundle.with_spec(replace(bundle.spec, golden=GoldenSpec(files=files), output=output)).write()
    return Predictor(written, predictor.variant, predictor.engine)


def as_before(document: dict) -> list[dict]:
    """As earlier versions wrote it: without a seal, probabilities in the order of the labels."""
    return [{**answer, "probabilities": [*answer["probabilities"].values()]} for answer in document["answers"]]


def with_seal_of(labels: tuple[str, ...]) -> Callable[[dict], dict]:
    """As somebody would write it who wants the change to go unnoticed."""

    def change(document: dict) -> dict:
        document["seal"]["output"]["labels"] = list(labels)
        return document

    return change


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.kind)
class TestByLabel:
    def test_probabilities_have_their_labels(self, tiny_spec, tmp_path, output):
        predictor = proven(tmp_path, replace(tiny_spec, output=output))
        for sample in read_golden(predictor.bundle, predictor.variant):
            assert sample.expected["probabilities"].keys() == set(LABELS)
            assert sample.expected["probabilities"]["bright"] > sample.expected["probabilities"]["dark"]
        assert replay(predictor) == []

    def test_labels_that_change_places_are_noticed(self, tiny_spec, tmp_path, output):
        predictor = proven(tmp_path, replace(tiny_spec, output=output))
        exchanged = with_answers(predictor, with_seal_of(LABELS[::-1]), LABELS[::-1])
        first, second = replay(exchanged)
        assert first.startswith("golden/1.png: expected 'bright' with probability 0.")
        assert "got 'dark' with 0." in first
        assert second.startswith("golden/2.png: ")

    def test_a_label_of_another_name_is_named(self, tiny_spec, tmp_path, output):
        predictor = proven(tmp_path, replace(tiny_spec, output=output))
        labels = ("bright", "black")
        renamed = with_answers(predictor, with_seal_of(labels), labels)
        said = "golden/1.png has probabilities for other labels than spec.json: 'black' is in spec.json only"
        with pytest.raises(BundleError, match=said):
            replay(renamed)

    def test_what_a_client_got_is_compared_by_label(self, tiny_spec, tmp_path, output):
        predictor = proven(tmp_path, replace(tiny_spec, output=output))
        sample = read_golden(predictor.bundle, predictor.variant)[0]
        (answer,) = predictor.predict([sample.data])
        assert predictor.output.difference(sample.expected, answer.as_json(), 1e-4) is None
        others = {"ranking": [{**entry, "label": LABELS[1 - entry["index"]]} for entry in answer.as_json()["ranking"]]}
        assert "expected 'bright'" in predictor.output.difference(sample.expected, others, 1e-4)

    def test_lists_of_earlier_versions_are_read(self, tiny_spec, tmp_path, output):
        before = with_answers(proven(tmp_path, replace(tiny_spec, output=output)), as_before)
        assert replay(before) == []
        for sample in read_golden(before.bundle, before.variant):
            assert isinstance(sample.expected["probabilities"], list)

    def test_a_list_of_another_length_is_named(self, tiny_spec, tmp_path, output):
        labels = (*LABELS, "grey")
        longer = with_answers(proven(tmp_path, replace(tiny_spec, output=output)), as_before, labels)
        with pytest.raises(BundleError, match="golden/1.png has no probability for each of 3 labels"):
            read_golden(longer.bundle, longer.variant)
