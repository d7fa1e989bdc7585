"""Ensembles: their joins against values worked out by hand, and the contract with members of different sorts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from components.core.cores import wait_asleep
from components.core.errors import DataError, SpecError
from components.core.models import build
from components.core.models.family import onnx_input
from components.core.models.family_ensemble import hold_out
from components.core.models.family_figures import best_epoch
from components.core.models.samples import Samples
from components.core.models.soft_voting import Vote
from components.core.models.stacking import Stack
from components.core.spec import DiseaseSpec

wait_asleep()
SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"
SMALL = {"kind": "small-cnn", "epochs": 2, "batch": 16, "lr": 0.01, "options": {"maps": [4, 4]}}
WIDE = {"kind": "small-cnn", "epochs": 3, "batch": 16, "lr": 0.01, "options": {"maps": [6], "views": True}}
FAMILIES = {
    "small": SMALL,
    "wide": WIDE,
    "svm": {"kind": "features-svm", "options": {"width": 0, "cost_low": 1.0, "cost_high": 1.0}},
    "fundus": {"kind": "features-svm"},
}


def spec_with(kind: str, members: list[str], /, **target: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"]["shape"] = [1, 16, 16]
    raw["target"] |= target
    raw["families"] = FAMILIES | {"both": {"kind": kind, "options": {"members": members}}, "other": {"kind": "stacking"}}
    raw["default_family"] = "both"
    return DiseaseSpec.from_json(json.dumps(raw))


def alone(n: int) -> np.ndarray:
    """Each sample a group of its own."""
    return np.arange(n).astype(object)


def samples(n: int = 40, classes: int = 2, *, several: bool = False, seed: int = 0) -> Samples:
    """Brighter images for higher classes; two samples to a group."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(n // 2) % classes).repeat(2)
    x = np.clip(draw.random((n, 1, 16, 16)) * 0.5 + 0.2 * labels[:, None, None, None], 0, 1).astype(np.float32)
    marked = (np.arange(classes) <= labels[:, None]).astype(np.float32)
    marked[0] = 0
    return Samples(batch=lambda rows: x[rows], labels=marked if several else labels, groups=(np.arange(n) // 2).astype(object))


def test_vote_is_the_mean_of_calibrated_probabilities():
    """Margins 2 and 0 at temperatures 2 and 1, biases 0: probabilities sigmoid(1) and 1/2."""
    arrays = Vote(several=False).blank(2, 2) | {"temperature": np.array([[2, 2], [1, 1]], np.float32)}
    scores = [np.array([[0, 2]], np.float32), np.array([[5, 5]], np.float32)]
    share = (1 / (1 + math.exp(-1)) + 0.5) / 2
    assert np.exp(Vote(several=False).apply(arrays, scores))[0] == pytest.approx([1 - share, share], rel=1e-6)
    one = Vote(several=True).apply(Vote(several=True).blank(2, 1), [np.array([[math.log(3)]], np.float32), np.zeros((1, 1), np.float32)])
    assert one[0, 0] == pytest.approx(math.log(0.625 / 0.375), rel=1e-5)  # 3/4 and 1/2


def test_stack_trusts_the_member_that_is_right():
    """One member knows the class, one is noise: the weights follow; and adding a constant to all scores of a sample changes no probability."""
    draw = np.random.default_rng(1)
    labels = np.arange(90) % 3
    right = (np.eye(3)[labels] * 3 + draw.normal(size=(90, 3))).astype(np.float32)
    noise = draw.normal(size=(90, 3)).astype(np.float32) * 10
    stack = Stack(several=False)
    arrays = stack.learn(labels, [right, noise], alone(90))
    assert np.abs(arrays["weight"][:3] * right.std()).sum() > 5 * np.abs(arrays["weight"][3:] * noise.std()).sum()
    assert (stack.apply(arrays, [right, noise]).argmax(axis=1) == labels).mean() > 0.9
    assert np.allclose(stack.apply(arrays, [right + 7, noise]), stack.apply(arrays, [right, noise]), atol=1e-4)


def test_stack_is_the_logistic_regression_of_scikit_learn():
    """Two classes: the margin of the answer is scikit-learn's decision on the standardised half margins, twice penalised as both columns move."""
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(2)
    labels = np.arange(60) % 2
    margins = [draw.normal(size=60) + 2 * labels, draw.normal(size=60) * 3 + labels]
    scores = [np.stack([-m / 2, m / 2], axis=1).astype(np.float32) for m in margins]
    arrays = Stack(several=False, l2=1.0).learn(labels, scores, alone(60))
    found = Stack(several=False).apply(arrays, scores)
    half = np.stack([m / 2 / np.stack([-m / 2, m / 2]).std() for m in margins], axis=1)
    # Four equal weights a of size w/4 each answer with the margin w x at a penalty of 4 (w/4)^2 / 2 = w^2 / 8.
    expected = LogisticRegression(C=4.0, tol=1e-10).fit(half, labels).decision_function(half)
    assert found[:, 1] - found[:, 0] == pytest.approx(expected, abs=0.02)


def test_stack_of_noise_is_held_back_by_cross_validation():
    """Ten noise members on 50 samples: penalty 1 fits them, the chosen one hardly; copies of a group in other folds would hide that."""
    draw = np.random.default_rng(4)
    labels = np.arange(50).repeat(4) % 2
    noise = [draw.normal(size=(50, 2)).repeat(4, axis=0).astype(np.float32) for _ in range(10)]
    groups = np.arange(50).repeat(4).astype(object)

    def margin(l2: float, by: np.ndarray) -> float:
        stack = Stack(several=False, l2=l2)
        answer = stack.apply(stack.learn(labels, noise, by), noise)
        return float(np.abs(answer[:, 1] - answer[:, 0]).mean())

    assert margin(0.0, groups) < 0.2 * margin(1.0, groups)
    assert margin(0.0, alone(200)) > 0.5 * margin(1.0, groups)


def test_stack_of_several_labels_is_one_regression_each():
    draw = np.random.default_rng(3)
    labels = (draw.random((80, 2)) < 0.5).astype(np.float32)
    scores = [(labels * 2 - 1 + draw.normal(size=(80, 2))).astype(np.float32) for _ in range(2)]
    arrays = Stack(several=True).learn(labels, scores, alone(80))
    assert np.array_equal(arrays["weight"] != 0, np.tile(np.eye(2, dtype=bool), (2, 1)))
    assert ((Stack(several=True).apply(arrays, scores) > 0) == labels).mean() > 0.85


def test_class_that_validation_lacks_gets_a_finite_low_answer():
    labels = np.arange(20) % 2
    scores = [np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)]
    answer = Stack(several=False).apply(Stack(several=False, l2=1.0).learn(labels, scores * 2, alone(20)), scores * 2)
    assert np.isfinite(answer).all()
    assert answer[:, 2].max() < answer[:, :2].min()


def test_held_out_groups_are_whole_of_every_class_and_the_same_again():
    train = samples(80, 4)
    taught, held = hold_out(train, 0.2)
    assert set(taught.groups) | set(held.groups) == set(train.groups)
    assert not set(taught.groups) & set(held.groups)
    assert set(held.labels.tolist()) == {0, 1, 2, 3}
    assert len(held) == 2 * 4 * 2  # two of the ten groups of each class, two samples each
    again = hold_out(train, 0.2)[1]
    assert np.array_equal(again.all(), held.all())
    with pytest.raises(DataError, match="too few groups"):
        hold_out(samples(4, 2), 0.2)


def test_members_of_a_stack_never_see_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from components.core.models.torch_fit import TorchEstimator

    seen: list[Samples] = []
    fit = TorchEstimator.fit

    def watched(self: TorchEstimator, train: Samples, val: Samples, **rest: object):
        seen.extend((train, val))
        return fit(self, train, val, **rest)

    monkeypatch.setattr(TorchEstimator, "fit", watched)
    val = samples(20, seed=9)
    val = Samples(batch=val.batch, labels=val.labels, groups=val.groups + 1000)
    build(spec_with("stacking", ["small", "wide"])).fit(samples(), val, seed=1, checkpoint=tmp_path, on_epoch=lambda _: None)
    assert len(seen) == 4
    assert not set(val.groups) & {group for split in seen for group in split.groups}


@pytest.mark.parametrize(
    ("kind", "members", "target"),
    [
        ("soft-voting", ["small", "svm"], {}),
        ("stacking", ["small", "wide", "svm"], {"kind": "ordinal", "classes": ["0", "1", "2"], "positive": "1"}),
        ("soft-voting", ["small", "wide"], {"kind": "multilabel", "classes": ["a", "b"], "positive": None}),
        ("stacking", ["wide", "small"], {"kind": "multilabel", "classes": ["a", "b"], "positive": None}),
    ],
)
def test_contract(kind: str, members: list[str], target: dict[str, object], tmp_path: Path):
    """Repeats bit by bit, also from its checkpoints and its file; the last epoch is the best; one ONNX file agrees at any batch size."""
    import onnxruntime

    spec = spec_with(kind, members, **target)
    train, val = (samples(n, spec.n_scores, several=target.get("kind") == "multilabel", seed=n) for n in (48, 24))
    told: list[dict[str, float]] = []
    first = build(spec)
    history = first.fit(train, val, seed=3, checkpoint=tmp_path / "c", on_epoch=told.append)
    assert told == history
    assert [e["epoch"] for e in history] == list(range(1, first.epochs + 1))
    assert best_epoch(history) is history[-1]
    second = build(spec)
    second.fit(train, val, seed=3, checkpoint=tmp_path / "c", on_epoch=lambda _: None)
    x = val.all()
    assert np.array_equal(first.scores(x), second.scores(x))

    first.save(tmp_path)
    loaded = build(spec)
    loaded.load(tmp_path)
    assert np.array_equal(first.scores(x), loaded.scores(x))
    assert loaded.n_parameters == first.n_parameters > sum(member.n_parameters for member in first.members)

    loaded.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert loaded.feature_name == ("samples+hand28" if "svm" in members else None)
    inputs = onnx_input(loaded.feature_name, x)
    for n in (1, 5):
        (answer,) = session.run(["scores"], {"x": inputs[:n]})
        assert np.abs(answer - first.scores(x[:n])).max() <= 1e-4


def test_features_alone_are_taken_as_they_are(tmp_path: Path):
    import onnxruntime

    spec = spec_with("soft-voting", ["svm", "fundus"])
    ensemble = build(spec)
    ensemble.fit(samples(48), samples(24, seed=5), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    ensemble.export_onnx(tmp_path / "model.onnx")
    assert ensemble.feature_name == "hand28"
    x = samples(6).all()
    (answer,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["scores"], {"x": onnx_input("hand28", x)})
    assert np.abs(answer - ensemble.scores(x)).max() <= 1e-4


@pytest.mark.parametrize("members", [[], ["small"], ["small", "small"], ["small", "absent"], ["small", "other"], ["small", "both"]], ids=str)
def test_wrong_members_are_one_line_that_names_the_others(members: list[str]):
    with pytest.raises(SpecError, match=r"two or more of fundus, small, svm, wide|a list of words"):
        build(spec_with("soft-voting", members))


def test_weights_of_another_ensemble_are_refused(tmp_path: Path):
    first = build(spec_with("soft-voting", ["small", "wide"]))
    first.save(tmp_path)
    with pytest.raises(DataError, match="another ensemble; got 'small'"):
        build(spec_with("soft-voting", ["svm", "wide"])).load(tmp_path)
    with pytest.raises(DataError, match="another ensemble"):
        build(spec_with("stacking", ["small", "wide"])).load(tmp_path)
