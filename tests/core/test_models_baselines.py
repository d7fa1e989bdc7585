"""Support vector machine and forest on features: equal to scikit-learn's own answers, stored as arrays, exported, several classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError, SpecError
from components.core.models import build
from tests.core.tables import table, table_spec

SMALL: dict[str, dict[str, Any]] = {
    "features-svm": {"features": "raw", "cost_low": 1.0, "cost_high": 4.0},
    "features-forest": {"features": "raw", "trees": 20, "leaf_high": 2},
}


def fitted(kind: str, tmp_path: Path, classes: int = 2) -> Any:
    own = build(table_spec(kind, classes=classes, **SMALL[kind]))
    own.fit(table(classes=classes), table(classes=classes, seed=1), seed=5, checkpoint=tmp_path, on_epoch=lambda _: None)
    return own


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("classes", [2, 4])
def test_raw_features_learn_save_load_and_export(kind: str, classes: int, tmp_path: Path):
    import onnxruntime

    own = fitted(kind, tmp_path, classes)
    x = table(classes=classes, seed=2).all()
    scores = own.scores(x)
    assert own.feature_name is None
    assert (scores.argmax(axis=1) == table(classes=classes, seed=2).labels).mean() > 0.7
    own.save(tmp_path)
    loaded = build(table_spec(kind, classes=classes, **SMALL[kind]))
    loaded.load(tmp_path)
    assert np.array_equal(loaded.scores(x), scores)
    loaded.export_onnx(tmp_path / "m.onnx")
    (answer,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["scores"], {"x": x})
    assert np.abs(answer - scores).max() < 1e-4 * np.abs(scores).max()


def test_forest_votes_as_scikit_learn_does(tmp_path: Path):
    """The same trees give the same probabilities: thresholds in float32 lose no decision."""
    from sklearn.ensemble import RandomForestClassifier

    own = fitted("features-forest", tmp_path, classes=3)
    train, x = table(classes=3), table(500, classes=3, seed=4).all()
    forest = RandomForestClassifier(20, class_weight="balanced", random_state=5, min_samples_leaf=2).fit(train.all(), train.labels)
    own.arrays = own._nodes(forest)
    assert np.allclose(own.votes(x), forest.predict_proba(x), atol=1e-6)


def test_value_on_a_threshold_goes_left_as_in_scikit_learn(tmp_path: Path):
    """Integers split at halves, halves themselves asked: equality is where float32 and float64 could part."""
    from sklearn.ensemble import RandomForestClassifier

    own = fitted("features-forest", tmp_path)
    draw = np.random.default_rng(0)
    x = np.round(draw.random((200, 12)) * 1000).astype(np.float32) / np.float32(1000)
    forest = RandomForestClassifier(20, random_state=0).fit(x, draw.integers(0, 2, 200))
    own.arrays = own._nodes(forest)
    asked = np.concatenate([x, *[np.full((1, 12), t, np.float32) for tree in forest.estimators_ for t in tree.tree_.threshold]])
    assert np.allclose(own.votes(asked), forest.predict_proba(asked), atol=1e-6)


def test_svm_decides_as_scikit_learn_does(tmp_path: Path):
    from sklearn.svm import SVC

    own = fitted("features-svm", tmp_path)
    train, x = table(), table(seed=2).all()
    mean, sd = train.all().mean(axis=0, dtype=np.float64), train.all().std(axis=0, dtype=np.float64)
    own.arrays = own._solve(((train.all() - mean) / sd).astype(np.float32), train.labels, mean, sd, 1.0, 0.1)
    settings: dict[str, Any] = {"gamma": 0.1, "class_weight": "balanced"}
    svc = SVC(C=1.0, **settings).fit((train.all() - mean) / sd, train.labels)
    assert np.allclose(own.scores(x)[:, 1] * 2, svc.decision_function((x - mean) / sd), atol=1e-3)


def test_features_that_do_not_exist_or_do_not_fit_are_refused():
    for kind in SMALL:
        with pytest.raises(SpecError, match="raw, "):
            build(table_spec(kind, features="nothing"))
        with pytest.raises(SpecError, match="do not fit"):
            build(table_spec(kind, features="hand28"))


def test_forest_whose_nodes_run_in_a_circle_is_refused(tmp_path: Path):
    own = fitted("features-forest", tmp_path)
    inner = int(np.flatnonzero(own.arrays["feature"] >= 0)[0])
    own.arrays["left"] = own.arrays["left"].copy()
    own.arrays["left"][inner] = inner
    own.save(tmp_path)
    with pytest.raises(DataError, match="another family"):
        build(table_spec("features-forest", **SMALL["features-forest"])).load(tmp_path)
