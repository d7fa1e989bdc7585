"""True performance from late labels: coverage always, revisions under the window's own time, selection said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from components.core import metrics
from components.core.errors import DataError
from components.monitor.late_labels import Answers, InForce
from components.monitor.true_performance import Snapshot, SnapshotStore, selection, snapshots

START = datetime(2026, 11, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
CLASSES = ("benign", "malignant")


def made(n: int = 200, seed: int = 0, *, per_patient: int = 1) -> tuple[Answers, np.ndarray]:
    """Answers of one device, and their truth, drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    truth = (rng.random(n) < p).astype(int)
    times = np.datetime64(START.replace(tzinfo=None), "us") + (np.arange(n) * 60_000_000).astype("timedelta64[us]")
    names = np.array([f"r{k}" for k in range(n)])
    groups = np.array([f"p{k // per_patient}" for k in range(n)])
    return Answers(names, times, np.full(n, "d1"), np.full(n, "m1"), groups, np.stack([1 - p, p], axis=1)), truth


def labels(answers: Answers, truth: np.ndarray, rows: np.ndarray | slice = slice(None)) -> dict[str, InForce]:
    return {s: InForce(CLASSES[t], START + WEEK) for s, t in zip(answers.sample[rows].tolist(), truth[rows].tolist(), strict=True)}


def of(answers: Answers, known: dict[str, InForce], *, weeks: int = 1, devices: tuple[str, ...] = ()) -> list[Snapshot]:
    return snapshots(answers, known, CLASSES, start=START, end=START + WEEK, as_of=START + weeks * WEEK, positive=(1,), devices=devices)


def test_with_every_label_the_figure_is_the_auc() -> None:
    answers, truth = made()
    (found,) = of(answers, labels(answers, truth))
    assert found.value == pytest.approx(metrics.auc(truth, answers.probabilities[:, 1]))
    assert (found.labelled, found.answered, found.coverage) == (200, 200, 1.0)
    assert found.selective is False


def test_coverage_counts_answers_and_not_abstentions() -> None:
    answers, truth = made()
    p = answers.probabilities.copy()
    p[:50] = np.nan
    (found,) = of(replace(answers, probabilities=p), labels(answers, truth, np.arange(100)))
    assert (found.labelled, found.answered) == (50, 150)


def test_without_labels_there_is_coverage_and_no_figure() -> None:
    answers, _ = made()
    (found,) = of(answers, {})
    assert (found.value, found.judged, found.coverage) == (None, False, 0.0)
    assert "no label has arrived" in found.reason


def test_a_silent_device_has_a_snapshot_that_says_so() -> None:
    answers, truth = made()
    silent = of(answers, labels(answers, truth), devices=("d1", "d2"))[1]
    assert (silent.device, silent.judged, silent.answered, silent.coverage) == ("d2", False, 0, None)
    assert "nothing was answered" in silent.reason


def test_too_few_of_a_class_give_no_figure() -> None:
    answers, truth = made()
    few = np.r_[np.flatnonzero(truth == 0)[:20], np.flatnonzero(truth == 1)[:2]]
    (found,) = of(answers, labels(answers, truth, few))
    assert not found.judged
    assert "2 positive" in found.reason


def test_models_are_never_mixed_and_the_window_is_half_open() -> None:
    answers, truth = made()
    version = np.where(np.arange(200) < 120, "m1", "m2")
    time = answers.time.copy()
    time[119] = np.datetime64((START + WEEK).replace(tzinfo=None), "us")
    found = of(replace(answers, version=version, time=time), labels(answers, truth))
    assert [(s.version, s.answered) for s in found] == [("m1", 119), ("m2", 80)]


def test_macro_auc_of_three_classes() -> None:
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(3), 300)
    truth = np.array([rng.choice(3, p=row) for row in p])
    base, _ = made(300)
    answers = replace(base, probabilities=p)
    known = {s: InForce("abc"[t], START + WEEK) for s, t in zip(answers.sample.tolist(), truth.tolist(), strict=True)}
    (found,) = snapshots(answers, known, "abc", start=START, end=START + WEEK, as_of=START + WEEK)
    assert found.metric == "macro_auc"
    assert found.value == pytest.approx(metrics.macro_auc(truth, p).value)


# ---- selection -------------------------------------------------------------------------------------------------------------------------


def test_labels_for_high_scores_only_are_called_selective() -> None:
    """Only suspicious answers are followed up: the AUC of those is far below the window's, and the snapshot says so."""
    answers, truth = made(400)
    (found,) = of(answers, labels(answers, truth, np.flatnonzero(answers.probabilities[:, 1] > 0.6)))
    assert found.selective is True
    assert "higher scores" in found.selection
    assert found.value is not None
    assert found.value < metrics.auc(truth, answers.probabilities[:, 1]) - 0.1


def test_labels_for_doubtful_scores_only_are_called_selective() -> None:
    answers, truth = made(400)
    doubtful = np.flatnonzero(np.abs(answers.probabilities[:, 1] - 0.5) < 0.2)
    assert of(answers, labels(answers, truth, doubtful))[0].selection.startswith("labelled answers have more middling scores")


@pytest.mark.parametrize("per_patient", [1, 8])
def test_a_fair_draw_is_rarely_called_selective(per_patient: int) -> None:
    """Whole patients are followed up, and scores go by patient: 1 % is declared; a test of single samples calls most of these selective."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        group = np.arange(320) // per_patient
        scores = rng.normal(size=320 // per_patient)[group] + 0.3 * rng.normal(size=320)
        alarms += selection(scores[:, None], (rng.random(320 // per_patient) < 0.4)[group], group)[0] is True
    assert alarms <= 7


def test_selection_cannot_be_told_from_a_handful() -> None:
    assert selection(np.arange(30.0)[:, None], np.arange(30) > 25)[0] is None


# ---- revisions -------------------------------------------------------------------------------------------------------------------------


def test_a_corrected_snapshot_keeps_its_window_and_gets_a_revision(tmp_path: Path) -> None:
    answers, truth = made()
    store = SnapshotStore(tmp_path)
    store.put(of(answers, labels(answers, truth, np.arange(100))))
    (second,) = store.put(of(answers, labels(answers, truth), weeks=3))
    assert [s.revision for s in store.all()] == [0, 1]
    assert {(s.start, s.end) for s in store.all()} == {(START.isoformat(), (START + WEEK).isoformat())}
    assert store.latest() == [second]
    assert second.as_of == (START + 3 * WEEK).isoformat()


def test_the_same_figures_again_change_nothing(tmp_path: Path) -> None:
    answers, truth = made()
    store = SnapshotStore(tmp_path)
    store.put(of(answers, labels(answers, truth)))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert store.put(of(answers, labels(answers, truth), weeks=5)) == []
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


def test_what_was_stored_is_read_back(tmp_path: Path) -> None:
    answers, truth = made()
    found = SnapshotStore(tmp_path).put(of(answers, labels(answers, truth), devices=("d2",)))
    assert SnapshotStore(tmp_path).all() == found
    assert found[0].to_dict()["coverage"] == 1.0


def test_a_damaged_snapshot_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "2026-11.jsonl").write_text('{"device": "d1"}\n')
    with pytest.raises(DataError, match=r"2026-11.jsonl:1: not a snapshot"):
        SnapshotStore(tmp_path).all()


def test_a_window_needs_zones_and_an_order() -> None:
    answers, _ = made(20)
    with pytest.raises(DataError, match="not a window"):
        snapshots(answers, {}, CLASSES, start=START, end=START, as_of=START)
    with pytest.raises(DataError, match="not a window"):
        snapshots(answers, {}, CLASSES, start=datetime(2026, 11, 1), end=START + WEEK, as_of=START)
