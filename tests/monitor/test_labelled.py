"""Labels that arrive after a window was judged: its true AUC appears under its own time, and changes with corrections."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from components.core import metrics
from components.core.errors import DataError
from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.monitor.labelled import take
from components.monitor.true_performance import SnapshotStore
from tests.monitor.test_watch import DAY, SAME, answers, history, package, run

__all__ = ["package"]


def delivery(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    path.write_text("sample,label,at\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


def test_the_true_auc_appears_under_the_windows_own_time_and_is_revised(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(answers(package, SAME, 0))
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows)
    run(package, tmp_path, 1.5)
    assert history(tmp_path).query("device_key == @SAME")["auc_true"].isna().all()
    p = np.array([r["scores"]["malignant"] for r in rows])
    truth = (np.random.default_rng(0).random(len(p)) < p).astype(int)
    names, at = ("benign", "malignant"), (DAY + timedelta(days=3)).isoformat()
    file = delivery(tmp_path / "labels.csv", [(r["request_id"], names[t], at) for r, t in zip(rows[:50], truth[:50], strict=True)])
    taken = take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=file, now=DAY + timedelta(days=4))
    assert str(taken) == "50 new, 0 corrected, 0 same"
    summary = run(package, tmp_path, 4.5)
    (row,) = history(tmp_path).query("device_key == @SAME and n > 0").to_dict("records")
    assert row["auc_true"] == pytest.approx(metrics.auc(truth[:50], p[:50]))
    assert row["auc_true_low"] < row["auc_true"] < row["auc_true_high"]
    assert (row["labelled"], row["answered"]) == (50, 60)
    assert summary["coverage"] == pytest.approx(50 / 60)

    wrong = delivery(tmp_path / "corrected.csv", [(rows[0]["request_id"], names[1 - truth[0]], (DAY + timedelta(days=5)).isoformat())])
    take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=wrong, now=DAY + timedelta(days=6))
    run(package, tmp_path, 6.5)
    kept = SnapshotStore(tmp_path / "state" / "lung-nodule" / "true").all()
    assert [(s.start, s.revision, s.corrected) for s in kept if s.device == SAME] == [(DAY.isoformat(), 0, 0), (DAY.isoformat(), 1, 1)]
    assert kept[1].value != kept[0].value


def test_labels_that_do_not_fit_are_refused_with_their_reason(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(answers(package, SAME, 0, 12))
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows)
    at = (DAY + timedelta(days=1)).isoformat()
    file = delivery(
        tmp_path / "l.csv",
        [
            ("nobody", "benign", at),
            (rows[0]["request_id"], "cat", at),
            (rows[1]["request_id"], "benign", "2020-01-01T00:00:00+00:00"),
            (rows[2]["request_id"], "benign", at),
        ],
    )
    taken = take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=file, now=DAY + timedelta(days=2))
    assert taken.counts == {"new": 1, "refused": 3}
    assert taken.reasons == {"unknown": 1, "class": 1, "early": 1}


@pytest.mark.parametrize(("text", "message"), [("a,b\n1,2\n", "labels without columns"), ("sample,label,at\nx,benign,soon\n", "not a time")])
def test_a_file_that_is_no_delivery_is_one_line(package: ModelPackage, tmp_path: Path, text: str, message: str) -> None:
    InferenceLog(tmp_path / "log").close()
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=tmp_path / "l.csv", now=DAY)
    with pytest.raises(DataError, match="labels cannot be read"):
        take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=tmp_path / "absent.csv", now=DAY)
