"""Daphnet, leave one subject out: freezing of gait on real recordings, by every family of `parkinson-fog`.

    python -m tests.real.daphnet [family ...]

For each subject in turn: every other subject with freezes validates once while the rest trains (validation stops the training); the same
validation chooses between two front ends, and the threshold; the answer is the mean of the chosen networks. The subject that is tested takes
part in nothing of it. Figures: mean area under the ROC curve of the subjects with freezes; of the one without, specificity.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "parkinson-daphnet"
SUBJECTS = (1, 2, 3, 6, 7)
KEY = "real recordings of tests, public"
SEED, DRAWS, BLOCK_S, SENSITIVITY = 1, 400, 20.0, 0.9
CHOICES: tuple[dict[str, Any], ...] = ({"relative": True}, {"relative": False})
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """All windows: inputs in [0, 1], classes, subject numbers, starts in seconds, recordings."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    subject: NDArray[np.int64]
    start_s: Floats
    recording: NDArray[np.object_]


def spec_of(family: str | None = None, options: dict[str, Any] | None = None) -> Any:
    """The disease as in the catalogue, folds left to this file; one family with some options changed."""
    from components.core.spec import DiseaseSpec

    raw = json.loads(DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "parkinson-fog.toml").to_json())
    raw["split"]["folds"] = 1
    if family is not None:
        raw["families"][family]["options"] |= options or {}
    return DiseaseSpec.from_json(json.dumps(raw))


def load(folder: Path) -> Windows:
    """Through the platform's own ingest."""
    from components.core.dataset import Dataset
    from components.core.devices import normalise
    from components.core.pseudonym import Pseudonymiser
    from components.ingest.step import ingest

    os.environ["DXFLOW_KEY"], os.environ["DXFLOW_HOME"] = KEY, str(folder / "home")
    spec = spec_of()
    with redirect_stdout(StringIO()):  # events
        ingest(spec, str(DATA), dataset=folder / "dataset", features=folder / "features", workers=1)
    data = Dataset(folder / "dataset", expect=spec)
    names = {Pseudonymiser(KEY.encode()).id("patient", f"S{n:02d}"): n for n in SUBJECTS}
    m = data.manifest
    return Windows(
        x=normalise(data.read(np.arange(len(data))), spec, None, None),
        y=m["label"].to_numpy(np.int64),
        subject=np.array([names[g] for g in m["group_id"]]),
        start_s=np.array([place[0] for place in m["place"]], dtype=np.float64),
        recording=m["series_id"].to_numpy(object),
    )


def fitted(w: Windows, family: str, options: dict[str, Any], out: tuple[int, ...], validates: int) -> tuple[Any, float]:
    """The scorer trained without the subjects `out`, stopped by one of them; and its area on that one."""
    from components.core.models import build
    from components.core.models.samples import Samples

    spec = spec_of(family, options)

    def part(rows: NDArray[np.int64]) -> Samples:
        return Samples(batch=lambda chosen: w.x[rows[chosen]], labels=w.y[rows], groups=w.subject[rows].astype(object))

    train, val = np.flatnonzero(~np.isin(w.subject, out)), np.flatnonzero(w.subject == validates)
    estimator = build(spec, family)
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(StringIO()):
        history = estimator.fit(part(train), part(val), seed=SEED, checkpoint=Path(scratch) / "c", on_epoch=lambda _: None)
    return (lambda x: (estimator.scores(x) @ np.array([-1, 1], dtype=np.float32)).astype(np.float64)), max(e.get("val_auc", 0) for e in history)


def left_out(w: Windows, family: str, test: int) -> tuple[Floats, float, dict[str, Any]]:
    """(scores of the subject's windows, threshold, the choice) with nothing learnt from the subject."""
    others = [s for s in SUBJECTS if s != test and w.y[w.subject == s].any()]
    known = spec_of().families[family].options
    tried = []
    for choice in CHOICES if "relative" in known else ({},):
        models = [(validates, *fitted(w, family, choice, (test, validates), validates)) for validates in others]
        tried.append((float(np.mean([area for _, _, area in models])), choice, models))
    area, choice, models = max(tried, key=lambda t: t[0])
    pooled = np.concatenate([score(w.x[(w.subject == v) & (w.y == 1)]) for v, score, _ in models])
    threshold = float(np.quantile(pooled, 1 - SENSITIVITY))
    x = w.x[w.subject == test]
    return np.mean([score(x) for _, score, _ in models], axis=0), threshold, choice | {"validation": round(area, 3)}


def forest(w: Windows, test: int) -> tuple[Floats, float, dict[str, Any]]:
    """The baseline: gait features and a random forest; its threshold comes from answers for training subjects that it did not see either."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    from components.core.features import gait

    x, own = gait.features(w.x), w.subject != test
    model = RandomForestClassifier(300, min_samples_leaf=3, class_weight="balanced", random_state=SEED)
    unseen = np.asarray(cross_val_predict(model, x[own], w.y[own], groups=w.subject[own], cv=LeaveOneGroupOut(), method="predict_proba"))
    threshold = float(np.quantile(unseen[w.y[own] == 1, 1], 1 - SENSITIVITY))
    return np.asarray(model.fit(x[own], w.y[own]).predict_proba(x[~own]))[:, 1], threshold, {}


def judged(w: Windows, answers: dict[int, tuple[Floats, float, dict[str, Any]]]) -> dict[str, Any]:
    """The row of one family. The interval resamples stretches of 20 s inside each subject: neighbouring windows overlap."""
    from components.core.metrics import auc

    by_subject: dict[str, Any] = {}
    draws = np.full((DRAWS, len(SUBJECTS)), np.nan)
    for column, subject in enumerate(SUBJECTS):
        scores, threshold, choice = answers[subject]
        rows = w.subject == subject
        y = w.y[rows]
        figures: dict[str, Any] = {"n": len(y), "freezes": int(y.sum()), "specificity": round(float((scores[y == 0] < threshold).mean()), 4)}
        if y.any():
            figures |= {"value": round(float(auc(y, scores)), 4), "sensitivity": round(float((scores[y == 1] >= threshold).mean()), 4)}
            draws[:, column] = resampled(y, scores, w.recording[rows], w.start_s[rows])
        by_subject[f"S{subject:02d}"] = figures | choice
    low, high = np.nanquantile(np.nanmean(draws, axis=1), [0.025, 0.975])
    areas = [f["value"] for f in by_subject.values() if "value" in f]
    return {
        "value": round(float(np.mean(areas)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(w.y),
        "by_subject": by_subject,
    }


def resampled(y: NDArray[np.int64], scores: Floats, recording: NDArray[np.object_], start_s: Floats) -> Floats:
    from components.core.metrics import auc

    draw = np.random.default_rng(SEED)
    names = sorted(set(recording))
    block = np.array([names.index(r) * 100_000 + int(s // BLOCK_S) for r, s in zip(recording, start_s, strict=True)])
    members = [np.flatnonzero(block == b) for b in np.unique(block)]
    out = []
    while len(out) < DRAWS:
        rows = np.concatenate([members[k] for k in draw.integers(len(members), size=len(members))])
        if 0 < y[rows].sum() < len(rows):
            out.append(auc(y[rows], scores[rows]))
    return np.array(out)


def main(chosen: list[str] | None = None) -> None:
    from components.core.cores import wait_asleep
    from components.core.models import kinds

    wait_asleep()
    if not DATA.is_dir():
        raise SystemExit("the Daphnet recordings are not on this machine (DXFLOW_DATA)")
    began = time.monotonic()
    families: dict[str, Any] = {}
    notes = [
        "epochs, thresholds and one of two front ends come from the training subjects alone; the families' other settings from validation over pairs "
        "of subjects that training left out",
        "the interval resamples 20 s blocks inside the four subjects: it says nothing of other subjects",
        "S06 has no freeze: specificity only; S03R03 is refused by ingest (its thigh sensor is dead)",
    ]
    with tempfile.TemporaryDirectory() as folder:
        w = load(Path(folder))
        spec = spec_of()
        for name in chosen or spec.families:
            if spec.families[name].kind not in kinds():
                notes.append(f"{name}: kind '{spec.families[name].kind}' is not there")
                continue
            started = time.monotonic()
            families[name] = judged(w, {s: left_out(w, name, s) for s in SUBJECTS})
            families[name]["seconds"] = round(time.monotonic() - started, 1)
            print(name, json.dumps(families[name]), file=sys.stderr, flush=True)
        baseline = judged(w, {s: forest(w, s) for s in SUBJECTS})
    row = {
        "row": "P1 parkinson-fog",
        "data": "Daphnet freezing of gait, 6 of 7 recordings, 5 subjects, windows of 5.1 s every 1.28 s; leave one subject out",
        "metric": "mean AUC of the 4 subjects with freezes",
        "families": families,
        "default": spec.default_family,
        "baseline": {"random forest on gait features": baseline},
        "chance": 0.5,
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "notes": notes,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:] or None)
