"""Proven means proven: a spec.json that was changed after the golden answers were written is not served."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import marquee
from marquee.handlers.core.bundle import Bundle, read_spec, sha256_file
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import read_golden, replay, verify_golden
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.sealed import seal
from marquee.training.core.progress import Progress
from marquee.training.optimize.config import OptimizeConfig, PruningConfig
from marquee.training.optimize.on_host import measure_on_host
from marquee.training.optimize.optimize import optimize

QUIET = Progress(quiet=True)
FAST = OptimizeConfig(variants=("openvino-fp32",), max_accuracy_drop=0.99, rounds=1, seconds=0.01)
NETWORK = {"arch": "cnn4_w8", "pretrained": "none"}
LOOP = {"epochs": 1, "batch_size": 16, "workers": 0, "device": "cpu", "precision": "fp32"}
IMAGES = {"image": {"size": 32}, "loop": LOOP, "optimizer": {"lr": 4e-3}}


def photos(folder: Path) -> list[Path]:
    """Dark and bright noise, in turn."""
    generator, paths = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(60):
        level = 160 * (number % 2)
        paths.append(folder / f"{number}.png")
        Image.fromarray(generator.integers(level, level + 96, (32, 32, 3)).astype(np.uint8)).save(paths[-1])
    return paths


def table(path: Path, header: tuple[str, ...], rows: list[tuple]) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def classified(tmp_path_factory) -> Path:
    """A run of a second with one label an image. No test changes these runs."""
    folder = tmp_path_factory.mktemp("classified")
    rows = [(path, ("dark", "bright")[number % 2]) for number, path in enumerate(photos(folder / "photos"))]
    data = table(folder / "data.csv", ("path", "label"), rows)
    marquee.train(data, folder / "run", model=NETWORK, **IMAGES)
    return folder / "run"


@pytest.fixture(scope="module")
def optimized(classified, tmp_path_factory) -> Path:
    """That run with a variant beside its first."""
    run = tmp_path_factory.mktemp("optimized") / "run"
    shutil.copytree(classified, run)
    optimize(run, FAST, PruningConfig(), "cpu", QUIET)
    return run


@pytest.fixture(scope="module")
def tagged(tmp_path_factory) -> Path:
    """The same with several labels an image."""
    folder = tmp_path_factory.mktemp("tagged")
    rows = [(path, ("dark", "bright|noisy")[number % 2]) for number, path in enumerate(photos(folder / "photos"))]
    data = table(folder / "data.csv", ("path", "label"), rows)
    marquee.train(data, folder / "run", task="multi-label-classification", model=NETWORK, **IMAGES)
    return folder / "run"


@pytest.fixture(scope="module")
def priced(tmp_path_factory) -> Path:
    """A number from a column of numbers and one of categories."""
    folder = tmp_path_factory.mktemp("priced")
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        size, kind = generator.uniform(0, 10), generator.choice(["flat", "house"])
        rows.append((round(size, 3), kind, round(3 * size + 20 * (kind == "house") + generator.normal(), 3)))
    data = table(folder / "data.csv", ("size", "kind", "price"), rows)
    loop = {"epochs": 2, "device": "cpu"}
    marquee.train(data, folder / "run", task="tabular-regression", table={"target": "price"}, loop=loop)
    return folder / "run"


def changed(run: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a run's bundle with another spec.json."""
    shutil.copytree(run / "bundle", target)
    document = json.loads((target / "spec.json").read_text("utf-8"))
    change(document)
    (target / "spec.json").write_text(json.dumps(document), "utf-8")
    return target


def exchange(labels: list) -> None:
    labels[0], labels[1] = labels[1], labels[0]


def set_in(*path: object) -> Callable[[dict], None]:
    """Sets the value that comes last, at the place that the others name."""
    *parents, name, value = path

    def change(document: dict) -> None:
        for parent in parents:
            document = document[parent]
        document[name] = value

    return change


LABELS = ("exchanged labels", lambda document: exchange(document["output"]["labels"]), r"output\.labels\[0\] was ")
CLASSIFIED = [
    LABELS,
    ("more pixels", set_in("input", "max_pixels", 10**9), r"input\.max_pixels was \d+, is 1000000000; change it back"),
    ("more bytes", set_in("input", "max_bytes", 10**9), r"input\.max_bytes was \d+, is 1000000000"),
    ("more labels", set_in("output", "top_k", 1), r"output\.top_k was 5, is 1"),
    ("no threshold", set_in("output", "calibration", "max_distance", None), r"output\.calibration\.max_distance was "),
    (
        "threshold",
        set_in("output", "calibration", "min_probability", 0.9),
        r"\.min_probability was 0\.0, is 0\.9",
    ),
    ("tolerance", set_in("variants", 0, "tolerance", 0.9), r"variant 'fp32': tolerance was 0\.0001, is 0\.9"),
    ("task", set_in("task", "other-task"), r"task was 'image-classification', is 'other-task'"),
]


def assert_refused(bundle: Path, message: str, variant: str | None = None) -> None:
    with pytest.raises(
        BundleError, match=rf"spec\.json: was changed after its golden answers were written: .*{message}"
    ):
        Predictor.load(bundle, variant=variant, verify=verify_golden)


class TestChanged:
    @pytest.mark.parametrize(("change", "message"), [row[1:] for row in CLASSIFIED], ids=[row[0] for row in CLASSIFIED])
    def test_one_label(self, classified, tmp_path, change, message):
        assert_refused(changed(classified, tmp_path / "bundle", change), message, "fp32")

    @pytest.mark.parametrize(
        ("change", "message"),
        [LABELS[1:], (set_in("output", "threshold", 0.1), r"output\.threshold was 0\.5, is 0\.1")],
        ids=["exchanged labels", "threshold"],
    )
    def test_several_labels(self, tagged, tmp_path, change, message):
        assert_refused(changed(tagged, tmp_path / "bundle", change), message)

    def test_a_number(self, priced, tmp_path):
        def exchange_categories(document: dict) -> None:
            exchange(next(column for column in document["input"]["columns"] if column["categories"])["categories"])

        wider = changed(priced, tmp_path / "wider", set_in("output", "calibration", "half_width", 1e6))
        assert_refused(wider, r"output\.calibration\.half_width was ")
        assert_refused(
            changed(priced, tmp_path / "bundle", exchange_categories), r"input\.columns\[\d\]\.categories\[0\]"
        )

    def test_an_archive_is_refused_where_it_is_read(self, classified, tmp_path):
        """What replays the answers over the wire, and what tunes, reads them in the same place."""
        bundle = Bundle.read(changed(classified, tmp_path / "bundle", CLASSIFIED[1][1]))
        with pytest.raises(BundleError, match="was changed after its golden answers were written"):
            read_golden(bundle, bundle.spec.variants[0])


class TestUnchanged:
    def test_it_is_served(self, classified, tagged, priced):
        for run in (classified, tagged, priced):
            Predictor.load(run / "bundle", verify=verify_golden)

    @pytest.mark.parametrize(
        "change",
        [
            set_in("provenance", "note", "who made it"),
            set_in("samples", {}),
            set_in("variants", 0, "name", "first"),
        ],
        ids=["provenance", "samples", "name"],
    )
    def test_what_decides_no_answer_may_change(self, classified, tmp_path, change):
        assert replay(Predictor.load(changed(classified, tmp_path / "bundle", change))) == []

    def test_a_field_that_was_added_since_has_its_default(self, classified, tmp_path):
        """The seal of a bundle from before such a field is compared as its spec.json is read."""
        bundle = tmp_path / "bundle"
        shutil.copytree(classified / "bundle", bundle)
        change_answers(bundle, lambda document: document["seal"]["input"].pop("max_bytes"))
        assert replay(Predictor.load(bundle, variant="fp32")) == []


@pytest.mark.slow
class TestVariants:
    def test_each_variant_has_its_own(self, optimized, tmp_path):
        """A variant that is not proven is passed over, as one with a damaged file is."""
        change = set_in("variants", 1, "calibration", "temperature", 3.0)
        bundle = changed(optimized, tmp_path / "bundle", change)
        assert_refused(bundle, r"variant 'openvino-fp32': calibration\.temperature was ", "openvino-fp32")
        assert Predictor.load(bundle, verify=verify_golden).variant.name == "fp32"

    def test_measuring_on_another_machine(self, optimized, tmp_path):
        bundle = tmp_path / "bundle"
        shutil.copytree(optimized / "bundle", bundle)
        found = measure_on_host(bundle, FAST, "cpu", QUIET)
        assert found.left_out == {}
        for variant in read_spec(bundle).variants:
            Predictor.load(bundle, variant=variant.name, verify=verify_golden)


def change_answers(bundle: Path, change: Callable[[dict], object]) -> None:
    """Changes the first variant's file of answers, with a digest that fits."""
    path = bundle / "golden" / "expected.json"
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")
    spec = json.loads((bundle / "spec.json").read_text("utf-8"))
    spec["golden"]["files"]["golden/expected.json"] = sha256_file(path)
    (bundle / "spec.json").write_text(json.dumps(spec), "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("seal"), "golden samples are not readable"),
        (lambda document: document["seal"].pop("task"), "golden samples are not readable: .*seal.task: missing"),
        (lambda document: document.update(seal=3), "golden samples are not readable: .*seal: expected an object"),
        (lambda document: document.pop("answers"), "golden samples are not readable"),
    ],
    ids=["no seal", "no task", "no object", "no answers"],
)
def test_a_damaged_file_of_answers_is_named(classified, tmp_path, change, message):
    bundle = tmp_path / "bundle"
    shutil.copytree(classified / "bundle", bundle)
    change_answers(bundle, change)
    with pytest.raises(BundleError, match=message):
        Predictor.load(bundle, variant="fp32", verify=verify_golden)


def test_the_seal_is_kept_with_the_answers(classified):
    spec = read_spec(classified / "bundle")
    document = json.loads((classified / "bundle" / "golden" / "expected.json").read_text("utf-8"))
    assert document["seal"] == json.loads(json.dumps(seal(spec, spec.variants[0])))
    assert set(document["seal"]) == {"task", "input", "output", "variant"}
