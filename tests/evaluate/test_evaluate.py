"""evaluate on real folders: what it writes is complete, deterministic, recomputable, and opens without a network."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core import calibration, gates
from components.core.calibration import Calibration
from components.core.errors import DataError, SpecError
from components.core.operating_point import Decision
from components.evaluate.figures import probabilities, recompute
from components.evaluate.report import render
from components.evaluate.step import evaluate
from tests.small_run import example, small_spec

FIGURES = ("metrics", "devices", "worst_device", "coverage", "counts", "baseline")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("good") / "evaluation"
    spec, run = example("synthetic")
    return out, evaluate(spec, **run, out=out)


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("weak") / "evaluation"
    spec, run = example("weak")
    return out, evaluate(spec, **run, out=out)


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "predictions.parquet")


def test_a_model_that_sees_the_signal_passes(good: tuple[Path, dict[str, Any]]):
    _, figures = good
    assert figures["verdict"] == "pass"
    assert figures["metrics"]["auc"]["low"] > 0.7
    assert figures["synthetic"] is True
    assert figures["metrics"].keys() == {"auc", "sensitivity", "specificity", "brier", "calibration_error"}


def test_it_writes_its_files_and_nothing_else(good: tuple[Path, dict[str, Any]]):
    out, figures = good
    assert {p.name for p in out.iterdir()} == {"metrics.json", "predictions.parquet", "calibration.json", "operating_point.json", "report.html"}
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(figures))


def test_every_figure_is_recomputable_from_the_predictions(good: tuple[Path, dict[str, Any]], weak: tuple[Path, dict[str, Any]]):
    for out, figures in (good, weak):
        decision = Decision.from_dict(json.loads((out / "operating_point.json").read_text()))
        again = recompute(table_of(out), small_spec(), decision)
        assert {name: json.loads(json.dumps(again[name])) for name in FIGURES} == {name: json.loads(json.dumps(figures[name])) for name in FIGURES}


def test_predictions_hold_what_anybody_needs(good: tuple[Path, dict[str, Any]]):
    table = table_of(good[0])
    assert list(table.columns) == [
        "sample_id", "group_id", "device_key", "manufacturer", "model", "split", "fold", "label", "decided", "score_benign", "score_malignant",
        "abstain",
    ]  # fmt: skip
    assert table["split"].value_counts().to_dict() == {"test": 130, "val": 80}
    assert table["sample_id"].is_unique
    np.testing.assert_allclose(table["score_benign"] + table["score_malignant"], 1)


def test_probabilities_are_the_model_then_the_calibration(good: tuple[Path, dict[str, Any]]):
    """The server has only these files: doing what it does gives the probabilities that were evaluated."""
    from components.core.models import build
    from feature_store.training import load_split

    spec, run = example("synthetic")
    estimator = build(spec, "cnn")
    estimator.load(run["model"])
    test = load_split(spec, run["dataset"], run["features"], "test", load_split(spec, run["dataset"], run["features"], "train").reference)
    fitted = Calibration.from_dict(json.loads((good[0] / "calibration.json").read_text()))
    expected = calibration.apply(fitted, estimator.scores(test.samples.all()))
    table = table_of(good[0])
    np.testing.assert_allclose(probabilities(table[table["split"] == "test"], spec), expected, atol=1e-5)


def test_calibration_and_operating_point_come_from_validation_alone(good: tuple[Path, dict[str, Any]]):
    _, figures = good
    assert figures["calibration"]["n"] == figures["operating_point"]["n"] == 80
    assert figures["operating_point"]["validation"]["sensitivity"]["value"] >= 0.9
    table = table_of(good[0])
    val = table[table["split"] == "val"]
    called = val["score_malignant"] >= figures["operating_point"]["thresholds"][0]
    assert called[val["label"] == 1].mean() == pytest.approx(figures["operating_point"]["validation"]["sensitivity"]["value"])


def test_a_weak_model_is_not_passed_and_says_why(weak: tuple[Path, dict[str, Any]]):
    _, figures = weak
    assert figures["verdict"] != "pass"
    assert any("lower end at least 0.7" in reason for reason in figures["reasons"])


def test_a_device_without_profile_gets_no_answer(weak: tuple[Path, dict[str, Any]]):
    out, figures = weak
    table = table_of(out)
    assert set(table.loc[table["abstain"], "device_key"]) == {"cccc3333cccc3333"}
    assert figures["counts"]["answered"] == 120
    assert "10 from devices without a profile get no decision" in (out / "report.html").read_text()


def test_the_same_input_gives_the_same_bytes(good: tuple[Path, dict[str, Any]], tmp_path: Path):
    spec, run = example("synthetic")
    evaluate(spec, **run, out=tmp_path / "again")
    for path in good[0].iterdir():
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256((tmp_path / "again" / path.name).read_bytes()).digest(), path.name


class Page(HTMLParser):
    """What a page would fetch or run, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [
            f"{tag} {name}"
            for name, value in attrs
            if name in ("src", "href", "xlink:href", "srcset", "onload", "onclick") and not (value or "").startswith("data:image/jpeg;base64,")
        ]
        if tag in ("script", "link", "iframe", "object", "embed", "img"):
            self.outside.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["good", "weak"])
def test_the_report_opens_offline(kind: str, request: pytest.FixtureRequest):
    out, _ = request.getfixturevalue(kind)
    text = (out / "report.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.outside == []
    assert page.open == []
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(text) < 100_000


def test_the_report_says_what_was_found(good: tuple[Path, dict[str, Any]], weak: tuple[Path, dict[str, Any]]):
    text, figures = (good[0] / "report.html").read_text(), good[1]
    assert "SYNTHETIC DATA" in text
    assert "SYNTHETIC DATA" not in (weak[0] / "report.html").read_text()
    assert f"{figures['metrics']['auc']['value']:.3f}" in text
    assert "SIEMENS Sensation 16 · aaaa11" in text
    assert "insufficient evidence (n=10)" in text
    assert "not DICOM (1); truncated pixel data (1)" in text
    assert "does not replace the physician" in text
    assert text.count("<svg") == 6
    assert "Where the model looks" in text
    assert "true: malignant" in text


def test_a_report_of_many_classes_and_of_several_labels_renders():
    """The page has no part that only two classes can fill."""
    rng = np.random.default_rng(0)
    n = 240
    base = pd.DataFrame({
        "sample_id": [f"s{i}" for i in range(n)], "group_id": [f"g{i}" for i in range(n)], "device_key": "unknown", "manufacturer": "<b>&",
        "model": None,
        "split": np.where(np.arange(n) % 2, "val", "test"), "label": rng.integers(0, 3, n), "abstain": False,
    })  # fmt: skip
    for kind, decision in (("multiclass", Decision("highest", ("x", "y", "z"))), ("multilabel", Decision("thresholds", ("x", "y", "z"), (0.5,) * 3))):
        spec = small_spec(target={"kind": kind, "classes": ["x", "y", "z"], "source": "a <script> test"}, metrics=["auc", "brier"])
        table = base.copy()
        p = rng.dirichlet(np.ones(3), n)
        for k, name in enumerate("xyz"):
            table[f"score_{name}"], table[f"label_{name}"] = p[:, k], rng.integers(0, 2, n)
        figures = recompute(table, spec, decision)
        figures |= {"operating_point": decision.to_dict(), "calibration": Calibration("softmax", (1.0,), (0.0,) * 3, 120).to_dict()}
        facts: dict[str, Any] = {"dataset": {"counts": {}}, "quarantine": {}, "validation": {"verdict": "warn"}, "model": {}, "history": []}
        text = render(spec, figures, table, decision, gates.judge(spec, figures, validation="warn"), synthetic=False, facts=facts)
        page = Page()
        page.feed(text)
        assert page.open == []
        assert page.outside == []
        assert "&lt;script&gt;" in text


def test_inputs_that_do_not_fit_are_one_line(tmp_path: Path):
    spec, run = example("synthetic")
    with pytest.raises(DataError, match=r"validation\.json: missing or not JSON"):
        evaluate(spec, **(run | {"validation": tmp_path}), out=tmp_path / "out")
    with pytest.raises(SpecError, match="no such metric"):
        evaluate(small_spec(metrics=["qwk"]), **run, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_that_are_no_numbers_stop_it(tmp_path: Path):
    """A model that diverged must not become a report."""
    import safetensors.numpy

    spec, run = example("synthetic")
    shutil.copytree(run["model"], tmp_path / "model")
    weights = safetensors.numpy.load_file(tmp_path / "model/model.safetensors")
    broken = {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in weights.items()}
    with safetensors.safe_open(tmp_path / "model/model.safetensors", framework="np") as handle:
        metadata = handle.metadata()
    safetensors.numpy.save_file(broken, tmp_path / "model/model.safetensors", metadata=metadata)
    with pytest.raises(DataError, match="not finite"):
        evaluate(spec, **(run | {"model": tmp_path / "model"}), out=tmp_path / "out")
