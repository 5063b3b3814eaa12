"""spec.json: typed, versioned, and clear about what is wrong with it."""

import json

import pytest

from marquee.handlers.core.bundle import bundle_digest, read_spec, verify_files
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.schema import from_dict, to_dict
from marquee.handlers.core.spec import ModelSpec

DIGEST = "0" * 64


def document(**changes):
    spec = {
        "schema_version": 3,
        "task": "image-classification",
        "input": {"kind": "image", "channels": 1, "resize": 40, "crop": 32},
        "output": {
            "kind": "classification",
            "labels": ["cat", "dog"],
            "top_k": 2,
            "calibration": {"kind": "classification", "temperature": 1.5},
        },
        "variants": [{"name": "fp32", "engine": "exported", "precision": "fp32", "files": {"model.pt2": DIGEST}}],
        "golden": {"files": {"golden/000.png": DIGEST}},
        "provenance": {"metrics": {"accuracy": 0.5}},
    }
    for path, value in changes.items():
        target = spec
        *parents, last = path.split("__")
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return spec


def write(tmp_path, text):
    (tmp_path / "spec.json").write_text(text if isinstance(text, str) else json.dumps(text))
    return tmp_path


def test_round_trip(tmp_path):
    spec = from_dict(ModelSpec, document())
    write(tmp_path, spec.to_json())
    assert read_spec(tmp_path) == spec
    assert to_dict(spec)["input"]["interpolation"] == "bilinear"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 4}, "schema_version: this code reads 3, the bundle has 4"),
        ({"schema_version": ...}, "schema_version: missing"),
        ({"schema_version": True}, "schema_version: expected int, got bool True"),
        ({"schema_version": 4, "input": 7}, "schema_version: this code reads 3, the bundle has 4"),
        ({"task": 3}, "task: expected str, got int 3"),
        ({"task": "../task"}, "task: expected lower-case letters, digits and dashes, got '../task'"),
        ({"input__kind": ...}, "input.kind: missing"),
        ({"input__kind": "sound"}, "input.kind: expected one of 'image', 'table', got 'sound'"),
        ({"input__kind": ["image"]}, "input.kind: expected str, got list"),
        ({"output__kind": "poem"}, "output.kind: expected one of 'classification', 'multi-label-classification'"),
        ({"output__labels": ["cat"]}, "output.labels: expected at least 2"),
        ({"output__labels": ["cat", "cat"]}, "output.labels: 'cat' is there twice"),
        ({"output__labels": ["cat", 3]}, "output.labels[1]: expected str, got int 3"),
        ({"output__threshold": 0.5}, "output.threshold: unknown field"),
        ({"output__calibration": {"kind": "image"}}, "output.calibration.kind: expected one of 'classification'"),
        ({"input__channels": 2}, "input.channels: expected 1 or 3, got 2"),
        ({"input__crop": "32"}, "input.crop: expected int, got str '32'"),
        ({"input__crop": 41}, "input.resize: expected at least crop (41), got 40"),
        ({"input__std": [0.0]}, "input.std: expected positive values"),
        ({"input__mean": [0.1, 0.2]}, "input.mean: expected 1 values, got 2"),
        ({"input__gamma": 1}, "input.gamma: unknown field"),
        ({"input": []}, "input: expected an object, got list"),
        ({"output__calibration__temperature": 0}, "output.calibration.temperature: expected a positive number"),
        ({"output__top_k": 0}, "output.top_k: expected at least 1"),
        ({"variants": []}, "variants: expected at least one"),
        ({"variants__0__precision": "fp8"}, "variants[0].precision: expected one of"),
        ({"variants__0__files": {"../../etc/passwd": DIGEST}}, "variants[0].files: '../../etc/passwd' is not a plain"),
        ({"variants__0__files": {"/abs": DIGEST}}, "is not a plain path"),
        ({"variants__0__files": {"model.pt2": "abc"}}, "has no sha256"),
        ({"golden__files": {"a//b": DIGEST}}, "golden.files: 'a//b' is not a plain path"),
        ({"provenance": 3}, "provenance: expected an object"),
    ],
)
def test_errors_name_the_field(tmp_path, changes, message):
    with pytest.raises(BundleError) as caught:
        read_spec(write(tmp_path, document(**changes)))
    assert message in str(caught.value)
    assert str(tmp_path / "spec.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_not_a_document(tmp_path, text):
    with pytest.raises(BundleError, match="spec.json"):
        read_spec(write(tmp_path, text))


def test_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="is this folder a bundle"):
        read_spec(tmp_path)


def test_not_a_number_is_refused(tmp_path):
    text = json.dumps(document()).replace("1.5", "NaN")
    with pytest.raises(BundleError, match=r"output.calibration.temperature: expected a finite number"):
        read_spec(write(tmp_path, text))


def test_files_are_checked_by_digest(tmp_path):
    import hashlib

    content = {"model.pt2": b"weights", "golden/000.png": b"pixels"}
    (tmp_path / "golden").mkdir()
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    write(
        tmp_path,
        document(
            variants__0__files={"model.pt2": digests["model.pt2"]},
            golden__files={"golden/000.png": digests["golden/000.png"]},
        ),
    )
    spec = read_spec(tmp_path)
    verify_files(tmp_path, spec.files)
    before = bundle_digest(tmp_path)
    (tmp_path / "golden/000.png").write_bytes(b"Pixels")
    with pytest.raises(BundleError, match=r"golden/000.png: sha256 is"):
        verify_files(tmp_path, spec.files)
    (tmp_path / "golden/000.png").unlink()
    with pytest.raises(BundleError, match=r"golden/000.png: missing"):
        verify_files(tmp_path, spec.files)
    assert bundle_digest(tmp_path) == before
    write(tmp_path, document(output__top_k=1))
    assert bundle_digest(tmp_path) != before
