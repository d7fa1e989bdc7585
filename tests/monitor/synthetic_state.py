"""SYNTHETIC state of the monitor, as `<state>/<disease>/` holds it: no scanner, no patient and no model stands behind it.

    python -m tests.monitor.synthetic_state FOLDER [DAYS [DEVICES]]

Three diseases, by default 8 devices and 40 daily windows that end on 20 November 2026. In every disease device 2 drifts for its last 9 windows,
device 5 is silent for its last 6, the last device was never seen before its last 12, and device 3 drifted once and was repaired.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.monitor.dashboard_state import PAGE

END = datetime(2026, 11, 21, tzinfo=UTC)
TITLES = {
    "lung-nodule": "Lung nodules on chest CT",
    "parkinson-fog": "Freezing of gait from body-worn sensors",
    "retinopathy-screening": "Referable diabetic retinopathy",
}
MAKERS = (
    "GE LightSpeed VCT",
    "Siemens Sensation 64",
    "Philips Brilliance 16",
    "Toshiba Aquilion",
    "Canon CR-2",
    "Topcon NW400",
    "Xsens MTw",
    "Shimmer3",
)


def write(state: Path, *, days: int = 40, devices: int = 8, diseases: tuple[str, ...] = tuple(TITLES), seed: int = 0) -> Path:
    """Write the state of `diseases` under `state`; the same arguments give the same figures."""
    for number, disease in enumerate(diseases):
        _write_disease(state / disease, disease, days=days, devices=devices, rng=np.random.default_rng([seed, number]))
    return state


def keys(disease: str, devices: int = 8) -> list[str]:
    """The device keys of a disease, in order."""
    return [hashlib.sha256(f"{disease} {n}".encode()).hexdigest()[:12] for n in range(devices)]


def _write_disease(folder: Path, disease: str, *, days: int, devices: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reports").mkdir(exist_ok=True)
    names = keys(disease, devices)
    labels = [f"{MAKERS[n % len(MAKERS)]} ({key[:8]})" for n, key in enumerate(names)]
    level = rng.uniform(0.2, 0.4, devices)
    quality = rng.uniform(0.86, 0.95, devices)
    rows = [
        _row(END - timedelta(days=days - day), names[n], labels[n], n, day, days, devices, level[n], quality[n], rng)
        for day in range(days)
        for n in range(devices)
    ]
    history = pd.DataFrame([row for row in rows if row is not None])
    for name in ("window_start", "window_end"):
        history[name] = pd.to_datetime(history[name], utc=True).astype("datetime64[us, UTC]")
    history.to_parquet(folder / "history.parquet", coerce_timestamps="us")
    answered, labelled = int(history["answered"].sum()), int(history["labelled"].sum())
    common: dict[str, Any] = {"schema_version": 1, "disease": disease, "synthetic": True}
    counts = {
        "devices": devices,
        "events": int(history["n"].sum()) + 3,
        "lost": 3 if disease == "lung-nodule" else 0,
        "damaged": 0,
        "late": 4,
        "duplicates": 1,
    }
    summary = {
        **common, "title": TITLES.get(disease, disease), "model": f"synthetic/{disease}", "version": "3", "updated": END.isoformat(),
        "window_s": 86400, **counts, "coverage": labelled / answered,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    (folder / "alarms.json").write_text(json.dumps({**common, "alarms": _alarms(disease, names, labels, days)}, indent=1))
    for day in {0, 6, 9, 12, days - 20 if days > 20 else 1}:
        date = f"{END - timedelta(days=max(day, 1)):%Y-%m-%d}"
        (folder / "reports" / f"{END - timedelta(days=max(day, 1)):{PAGE}}").write_text(
            f"<!doctype html><meta charset=utf-8><title>{disease} {date}</title><p>SYNTHETIC report of {date}"
        )


def _row(
    start: datetime, key: str, label: str, n: int, day: int, days: int, devices: int, level: float, quality: float, rng: np.random.Generator
) -> dict[str, Any] | None:
    left = days - day
    new, silent, drifting, repaired = n == devices - 1, n == 5 and left <= 6, n == 2 and left <= 9, n == 3 and 20 < left <= 25
    if new and left > 12:
        return None
    count = 0 if silent else int(rng.poisson(20 if n == 6 else 140))
    few = count < 30
    mean = level + (0.18 if drifting else 0.1 if repaired else 0) + rng.normal(0, 0.015)
    auc = quality - (0.12 if drifting else 0) + rng.normal(0, 0.01)
    labelled = int(count * 0.3) if left > 7 else 0
    verdict = "cannot judge" if few else "drift" if drifting or repaired else "watch" if n == 1 and left == 3 else "no drift found"
    judged = not few and not new
    words = {"drift": "noise +38 %, kernel B70 instead of B30 in 91 of 140", "watch": "sharpness -6 %, in one of three windows", "cannot judge": ""}
    true = auc + rng.normal(0, 0.01) if judged and labelled else None
    return {
        "window_start": start, "window_end": start + timedelta(days=1), "model": "synthetic", "version": "3", "device_key": key, "label": label,
        "status": "silent" if silent else "unseen" if new else "known", "verdict": verdict,
        "reason": "no requests in this window" if silent else f"{count} requests, 30 are needed" if few else "",
        "n": count, "patients": float(count // 2), "abstained": count // 40, "errors": 0,
        "score_mean": None if silent else mean, "score_low": None if silent else max(mean - 0.18, 0.01), "score_high": None if silent else mean + 0.3,
        "drift_feature": "noise_sd" if verdict == "drift" else None, "drift_effect": 0.38 if verdict == "drift" else None,
        "drift_p": 0.0003 if verdict == "drift" else None, "words": words.get(verdict, "no change found"),
        "auc_estimated": auc if judged else None, "auc_estimated_low": auc - 0.05 if judged else None,
        "auc_estimated_high": auc + 0.05 if judged else None, "auc_true": true, "auc_true_low": None if true is None else true - 0.07,
        "auc_true_high": None if true is None else true + 0.06, "labelled": labelled, "answered": count - count // 40,
    }  # fmt: skip


def _alarms(disease: str, names: list[str], labels: list[str], days: int) -> list[dict[str, Any]]:
    def alarm(kind: str, n: int | None, since: int, last: int, evidence: str, *, open_: bool) -> dict[str, Any]:
        first, latest = END - timedelta(days=since), END - timedelta(days=last)
        key, label = ("", "") if n is None else (names[n], labels[n])
        return {
            "id": f"{disease}-{kind}-{key[:8]}-{first:%Y%m%d}", "kind": kind, "device_key": key, "label": label, "evidence": evidence,
            "since": first.isoformat(), "last": latest.isoformat(), "open": open_, "report": f"reports/{first.strftime(PAGE)}",
        }  # fmt: skip

    made = [alarm("drift", 2, 9, 1, "Noise +38 %, kernel B70 instead of B30 in 91 of 140 studies; mean score +0.18.", open_=True)]
    if len(names) > 5:
        made.append(alarm("silent", 5, 6, 1, "No requests for 6 windows; about 140 a window were expected.", open_=True))
    made.append(alarm("unseen", len(names) - 1, 12, 1, "The model's reference holds no study of this device.", open_=True))
    if disease == "lung-nodule":
        made.append(alarm("log_loss", None, 1, 1, "3 requests were answered but not logged: the disk was full.", open_=True))
    if days > 25:
        made.append(alarm("drift", 3, 25, 21, "Mean score +0.10; back to its reference after a repair.", open_=False))
    return made


if __name__ == "__main__":
    write(Path(sys.argv[1]), **{name: int(value) for name, value in zip(("days", "devices"), sys.argv[2:], strict=False)})
