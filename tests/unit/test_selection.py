"""Model selection against values worked out by hand."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from marquee.handlers.outputs.classification import softmax
from marquee.training.core.config import SplitConfig
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.progress import Progress
from marquee.training.selection.candidates import missing_weights, read_ladder
from marquee.training.selection.chart import Point, draw
from marquee.training.selection.comparison import compare, summarise
from marquee.training.selection.config import Rule
from marquee.training.selection.decide import FIRST, PAYS, TOO_SMALL, UNCERTAIN, decide
from marquee.training.selection.folds import make_folds
from marquee.training.selection.probe import fit_logistic
from marquee.training.tasks.image_classification.config import ImageRunConfig, ModelConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record, read_manifest, write_manifest
from marquee.training.tasks.image_classification.data.scan import scan
from marquee.training.tasks.image_classification.data.split import assign_splits
from tests.conftest import ROOT


def records(groups: bool = False, **counts: int) -> list[Record]:
    """Images of each class; with ``groups``, four neighbours of a class share one."""
    return [
        Record(f"/{label}/{i}", label, "", f"{label}{i:060d}", group=f"{label}-{i // 4}" if groups else "")
        for label, count in counts.items()
        for i in range(count)
    ]


def splits_of_groups(manifest: Manifest) -> list[set[str]]:
    places = defaultdict(set)
    for record in manifest.records:
        places[record.group].add(record.split)
    return list(places.values())


class TestGroups:
    def test_stay_whole_and_close_to_the_fractions(self):
        manifest, _ = assign_splits(Manifest(tuple(records(True, a=200, b=60))), SplitConfig(val=0.1, test=0.2), 0)
        assert all(len(places) == 1 for places in splits_of_groups(manifest))
        counts = Counter((record.label, record.split) for record in manifest.records)
        for label, total in (("a", 200), ("b", 60)):
            assert abs(counts[label, "val"] - 0.1 * total) <= 4
            assert abs(counts[label, "test"] - 0.2 * total) <= 4

    def test_across_classes(self):
        # A patient with healthy and sick images counts for both classes.
        mixed = [Record(f"/{i}", "ab"[i % 2], "", f"{i:064d}", group=f"patient {i // 6}") for i in range(120)]
        manifest, _ = assign_splits(Manifest(tuple(mixed)), SplitConfig(), 0)
        assert all(len(places) == 1 for places in splits_of_groups(manifest))
        assert {record.split for record in manifest.records} == {"train", "val", "test"}

    def test_seeded_and_independent_of_places(self):
        def chosen(images, seed):
            return {r.sha256: r.split for r in assign_splits(Manifest(tuple(images)), SplitConfig(), seed)[0].records}

        here = records(True, a=80, b=80)
        moved = [Record(f"/{i:04d}", r.label, "", r.sha256, group=r.group) for i, r in enumerate(reversed(here))]
        assert chosen(here, 1) == chosen(moved, 1)
        assert chosen(here, 1) != chosen(here, 2)

    def test_validation_from_train(self):
        named = [Record(r.path, r.label, "train", r.sha256, group=r.group) for r in records(True, a=80, b=80)]
        manifest, _ = assign_splits(Manifest(tuple(named)), SplitConfig(), 0)
        assert len(manifest.split("val")) == pytest.approx(24, abs=8)
        assert all(len(places) == 1 for places in splits_of_groups(manifest))

    @pytest.mark.parametrize("second", ["test", ""])
    def test_a_torn_group_is_named(self, second):
        images = [*records(a=20, b=20), Record("/x", "a", "train", "x" * 64, group="Ann")]
        images.append(Record("/y", "b", second, "y" * 64, group="Ann"))
        images.append(Record("/z", "b", "val", "z" * 64, group="Bob"))
        if not second:
            images.append(Record("/w", "b", "", "w" * 64, group="Bob"))
        with pytest.raises(DataError, match="group 'Ann' lies in t" if second else "group 'Bob' lies in"):
            assign_splits(Manifest(tuple(images)), SplitConfig(), 0)

    def test_in_a_table_and_in_a_manifest(self, digits, tmp_path):
        paths = sorted((digits / "test").glob("[01]/*.png"))[:60]
        lines = [f"{path},{path.parent.name},writer {i % 7}" for i, path in enumerate(paths)]
        (tmp_path / "t.csv").write_text("path,label,group\n" + "\n".join(lines))
        manifest, _ = scan(tmp_path / "t.csv", 10**6, Progress(quiet=True))
        assert {record.group for record in manifest.records} == {f"writer {i}" for i in range(7)}
        write_manifest(tmp_path / "m.csv", manifest)
        assert read_manifest(tmp_path / "m.csv") == manifest

    def test_manifests_from_before_there_were_groups(self, tmp_path):
        (tmp_path / "m.csv").write_text("path,label,split,sha256,width,height,mode\n/a,x,train,1,3,4,L\n")
        assert read_manifest(tmp_path / "m.csv").records == (Record("/a", "x", "train", "1", 3, 4, "L"),)


class TestFolds:
    def test_every_image_is_held_out_once_and_classes_keep_their_shares(self):
        folds = make_folds(Manifest(tuple(records(a=50, b=20))), 5, seed=0)
        held = [record.sha256 for fold in folds for record in fold.split("test")]
        assert len(held) == len(set(held)) == 70
        for fold in folds:
            assert Counter(record.label for record in fold.split("test")) == {"a": 10, "b": 4}
            assert len(fold.split("train")) == 56

    def test_groups_stay_whole(self):
        folds = make_folds(Manifest(tuple(records(True, a=80, b=40))), 5, seed=0)
        assert sorted(r.sha256 for fold in folds for r in fold.split("test")) == sorted(
            r.sha256 for r in folds[0].records
        )
        for fold in folds:
            assert all(len(places) == 1 for places in splits_of_groups(fold))
            assert Counter(record.label for record in fold.split("test")) == {"a": 16, "b": 8}

    def test_copies_of_an_image_stay_together(self):
        images = records(a=20, b=20)
        images += [Record(f"/copy{r.path}", r.label, "", r.sha256) for r in images]
        for fold in make_folds(Manifest(tuple(images)), 4, seed=0):
            held = Counter(record.sha256 for record in fold.split("test"))
            assert set(held.values()) == {2}

    def test_seeded_and_independent_of_places(self):
        def held(images, seed):
            return [{r.sha256 for r in fold.split("test")} for fold in make_folds(Manifest(tuple(images)), 3, seed)]

        here = records(a=30, b=30)
        moved = [Record(f"/{i:04d}", r.label, "", r.sha256) for i, r in enumerate(reversed(here))]
        assert held(here, 1) == held(moved, 1)
        assert held(here, 1) != held(here, 2)

    def test_groups_of_different_sizes_are_seeded_and_keep_the_shares_of_classes(self):
        images = [
            Record(f"/{label}/{group}/{i}", label, "", f"{label}{group:030d}{i:030d}", group=f"{label}-{group}")
            for label, groups in (("a", 24), ("b", 12))
            for group in range(groups)
            for i in range(3 + group)
        ]
        found = set()
        for seed in range(20):
            folds = make_folds(Manifest(tuple(images)), 4, seed)
            held = [{record.sha256 for record in fold.split("test")} for fold in folds]
            assert sum(map(len, held)) == len(set.union(*held)) == len(images)
            for fold in folds:
                assert all(len(places) == 1 for places in splits_of_groups(fold))
                counts = Counter(record.label for record in fold.split("test"))
                assert counts["a"] == pytest.approx(348 / 4, abs=13)
                assert counts["b"] == pytest.approx(102 / 4, abs=7)
            found.add(frozenset(map(frozenset, held)))
        assert len(found) == 20

    def test_named_test_images_stay_out(self):
        named = [Record(f"/t{i}", "ab"[i % 2], "test", f"t{i:063d}") for i in range(10)]
        for fold in make_folds(Manifest((*records(a=20, b=20), *named)), 4, seed=0):
            assert len(fold.records) == 40

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (records(a=20, b=3), "class 'b' has 3 separate images or groups, too few for 4 folds; use --folds 3"),
            (records(True, a=20, b=8), "class 'b' has 2 .* use --folds 2"),
            (records(a=20, b=1), "class 'b' has 1 .* remove the class"),
        ],
    )
    def test_a_class_that_is_too_small_is_named(self, images, message):
        with pytest.raises(DataError, match=message):
            make_folds(Manifest(tuple(images)), 4, seed=0)


class TestStatistics:
    def test_interval(self):
        # sd of .90 .92 .94 is .02; t(.975, 2) = 4.30265; half = 4.30265 * .02 / sqrt(3) = .049683
        summary = summarise([0.90, 0.92, 0.94])
        assert (summary.mean, summary.sd) == (pytest.approx(0.92), pytest.approx(0.02))
        assert (summary.low, summary.high) == (pytest.approx(0.870317, abs=1e-5), pytest.approx(0.969683, abs=1e-5))
        assert summarise([0.5, 1.0]).high == 1.0

    def test_corrected_t_test(self):
        # Differences .01 .03 .02 .04 .05: mean .03, variance .00025, k = 5, so 1/k + 1/(k - 1) = .45;
        # t = .03 / sqrt(.45 * .00025) = 2.828427. Student with 4 degrees of freedom: p = .047421.
        # The plain paired test would say t = 4.2426, p = .0132.
        comparison = compare([0.91, 0.93, 0.92, 0.94, 0.95], [0.90] * 5)
        assert comparison.difference == pytest.approx(0.03)
        assert comparison.p == pytest.approx(0.047421, abs=1e-5)
        assert compare([0.90] * 5, [0.91, 0.93, 0.92, 0.94, 0.95]).p == pytest.approx(comparison.p)

    def test_differences_without_variance(self):
        assert compare([0.9, 0.8], [0.9, 0.8]).p == 1
        assert compare([0.9, 0.8], [0.8, 0.7]).p == 0


class TestDecision:
    A = (0.80, 0.81, 0.79, 0.80)
    BETTER = (0.90, 0.91, 0.90, 0.90)
    UNSURE = (0.99, 0.80, 0.85, 0.81)
    HAIR = (0.801, 0.811, 0.791, 0.801)

    def verdicts(self, rule=None, **accuracies):
        decision = decide(accuracies, rule or Rule())
        return decision.choice, [step.verdict for step in decision.steps], decision.stop

    def test_one(self):
        assert self.verdicts(a=self.A) == ("a", [FIRST], False)
        assert decide({}, Rule()).choice == ""

    def test_a_larger_one_must_pay(self):
        assert self.verdicts(a=self.A, b=self.BETTER) == ("b", [FIRST, PAYS], False)
        assert self.verdicts(a=self.A, b=self.UNSURE) == ("a", [FIRST, UNCERTAIN], False)
        assert self.verdicts(a=self.A, b=self.HAIR) == ("a", [FIRST, TOO_SMALL], False)
        assert self.verdicts(a=self.BETTER, b=self.A) == ("a", [FIRST, TOO_SMALL], False)
        assert self.verdicts(Rule(min_gain=0.001), a=self.A, b=self.HAIR)[0] == "b"
        assert self.verdicts(Rule(alpha=0.9), a=self.A, b=self.UNSURE)[0] == "b"
        assert self.verdicts(Rule(min_gain=0), a=self.A, b=self.A)[0] == "a"

    def test_patience(self):
        assert self.verdicts(a=self.A, b=self.HAIR, c=self.HAIR)[2]
        assert not self.verdicts(Rule(patience=2), a=self.A, b=self.HAIR, c=self.HAIR)[2]
        assert self.verdicts(Rule(patience=0), a=self.A, b=self.HAIR)[2]
        assert not self.verdicts(Rule(all=True), a=self.A, b=self.HAIR, c=self.HAIR)[2]
        # Only failures in a row count, and each is compared with the choice of its time.
        decision = decide({"a": self.A, "b": self.HAIR, "c": self.BETTER, "d": self.BETTER}, Rule())
        assert (decision.choice, decision.stop) == ("c", False)
        assert [step.reference for step in decision.steps] == ["", "a", "a", "c"]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_is_scikit_learns_answer(classes):
    """Standardised features, then the regression, equals the plain features times the folded weights."""
    rng = np.random.default_rng(0)
    targets = np.arange(120) % classes
    features = rng.normal(size=(120, 5)) * [1, 10, 0.1, 3, 0] + 7
    features[:, 1] += 20 * targets
    weight, bias, strength = fit_logistic(features[:90], targets[:90], features[90:], targets[90:])
    assert weight.shape == (classes, 5)
    scale = StandardScaler().fit(features[:90])
    reference = LogisticRegression(C=strength, max_iter=1000).fit(scale.transform(features[:90]), targets[:90])
    expected = reference.predict_proba(scale.transform(features[90:]))
    assert np.allclose(softmax(features[90:] @ weight.T + bias), expected, atol=1e-3)


class TestLadder:
    def test_the_default_one_is_whole(self):
        ladder = read_ladder(ROOT / "recipes" / "ladder.yaml")
        assert {candidate.kind for candidate in ladder} == {"probe", "train"}
        for candidate in ladder:
            config = candidate.resolve(ImageRunConfig())
            if config.model.pretrained != "timm":
                assert missing_weights(config, classes=3) is None

    def test_its_own_fields_win(self, tmp_path):
        (tmp_path / "l.yaml").write_text("[{name: a, config: {model: {arch: test_vit}}}]")
        (candidate,) = read_ladder(tmp_path / "l.yaml")
        config = candidate.resolve(ImageRunConfig(model=ModelConfig(arch="resnet50", dropout=0.5)))
        assert (config.model.arch, config.model.dropout) == ("test_vit", 0.5)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[]", "no candidates"),
            ("a: 1", "expected a list"),
            ("[{name: ../a}]", "expected letters"),
            ("[{name: a}, {name: A}]", "'a' occurs twice"),
            ("[{name: a, kind: forest}]", "expected one of 'probe', 'train'"),
            ("[{name: a, config: {model: {arc: x}}}]", "candidate a: config.model.arc: unknown field"),
            ("[{name: a, config: {modle: {}}}]", "candidate a: config.modle: unknown field"),
            ("[{name: a, config: {loop: 3}}]", "candidate a: config.loop: expected an object"),
            ("[", "not readable as YAML"),
        ],
    )
    def test_errors_name_the_place(self, tmp_path, text, message):
        (tmp_path / "l.yaml").write_text(text)
        with pytest.raises(TrainingError, match=message):
            for candidate in read_ladder(tmp_path / "l.yaml"):
                candidate.resolve(ImageRunConfig())

    def test_an_unknown_architecture_is_a_mistake_and_not_skipped(self):
        with pytest.raises(TrainingError, match="did you mean"):
            missing_weights(ImageRunConfig(model=ModelConfig(arch="resnet17", pretrained="timm")), 2)


def test_equal_points_give_equal_pictures(tmp_path: Path):
    points = [Point("a", 0.9, 0.8, 1.0, 3.0, 1.5), Point("b", 0.9, 0.9, 0.9, 3.0, 90.0)]
    assert draw(points, "a", 5, "svg") == draw(points, "a", 5, "svg")
    assert draw(points[:1], "a", 5, "svg").startswith(b"<?xml")
