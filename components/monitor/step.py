"""Drift by device: what the server saw, against what the model was tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.atomic import atomic_dir
from components.core.errors import DataError
from components.core.inference_log import IMAGE_FEATURES, read_log
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.monitor import page
from components.monitor.tests_by_device import Finding, by_device

if TYPE_CHECKING:
    import pandas as pd

SILENT_LEVEL = 0.01
"""A device is reported missing when, by its share of the reference, so empty a window had at most this probability."""


def drift(*, package: Path, log: Path, out: Path) -> dict[str, Any]:
    """Compare an inference log with a model package's reference and write the findings.

    Args:
        package: A model package folder. Every hash in it is verified first.
        log: The folder that the server writes, `components/core/inference_log.py`. Records of other models in it are left alone.
        out: Replaced by `drift.json`, `drift.html` and, if a device has enough requests to be judged, `evidently.html`.

    Returns:
        The contents of drift.json: `devices` {device_key: facts}, `unseen` and `silent` (names of devices), `alarms` [{kind, device, text}].

    Raises:
        DataError: Not a package, or not a log.
    """
    model = ModelPackage.open(package, allow_synthetic=True)  # looking at a model's data is not using it
    spec = model.spec
    features = [*IMAGE_FEATURES, *_score_columns(spec)]
    reference = _reference(model, features)
    everything = read_log(log)
    current = everything[everything["model"] == model.name].reset_index(drop=True)
    _grouped(current, features, digests=model.digests)
    findings = by_device(reference, current, features, min_n=spec.device.min_n)
    found = _found(model, findings, reference, current, damaged=everything.attrs["damaged"])
    with atomic_dir(out) as folder:
        (folder / "drift.json").write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
        labels = {key: facts["label"] for key, facts in found["devices"].items()}
        at = current["time"].max().to_pydatetime() if len(current) else datetime.fromtimestamp(0, UTC)
        evidently = False
        if any(f.judged for f in findings.values()):  # importing Evidently takes seconds: only when there is something to show
            from components.monitor import evidently_report

            evidently = evidently_report.save(folder / "evidently.html", reference, current, findings, labels, synthetic=model.synthetic, at=at)
        page.write(folder / "drift.html", found, findings, reference, current, evidently=evidently)
    return found


def _score_columns(spec: DiseaseSpec) -> list[str]:
    """Probabilities to compare: of the positive class where there is one, else of each class."""
    classes = [spec.target.classes[spec.positive_index]] if spec.target.kind == "binary" else spec.target.classes
    return [f"score_{name}" for name in classes]


def _reference(model: ModelPackage, features: list[str]) -> pd.DataFrame:
    """The package's reference with a column `group`: the patient where known, else each sample is its own."""
    import pandas as pd

    table = model.reference
    missing = [name for name in ("device_key", *features) if name not in table]
    if missing:
        raise DataError(
            "reference without columns", where=f"{model.name}/reference.parquet", got=f"{len(missing)} missing", allowed=", ".join(missing)
        )
    own = pd.Series([f"sample-{n}" for n in range(len(table))], index=table.index)
    named = next((table[c] for c in ("group_id", "patient_id") if c in table), own)
    return table.assign(group=named.where(named.notna(), own).astype(str), device_key=table["device_key"].astype(str))


def _grouped(current: pd.DataFrame, features: list[str], *, digests: frozenset[str]) -> None:
    """Add `group` to the window, and drop the scores of other versions of the model: another version answers differently."""
    import numpy as np

    current["group"] = current["patient"].fillna(current["request_id"]).astype(str)
    current["device_key"] = current["device_key"].fillna(UNKNOWN_DEVICE).astype(str)
    for name in features:
        if name not in current:
            current[name] = np.nan
        if name.startswith("score_"):
            current[name] = current[name].astype("float64").where(current["digest"].isin(digests))


def _found(model: ModelPackage, findings: Mapping[str, Finding], reference: pd.DataFrame, current: pd.DataFrame, *, damaged: int) -> dict[str, Any]:
    devices: dict[str, dict[str, Any]] = {}
    alarms: list[dict[str, str]] = []
    abstained = current.groupby("device_key")["abstain"].sum()
    for key, finding in findings.items():
        facts = _names(key, reference, current)
        share = (reference["device_key"] == key).mean()
        says = page.say_all(finding.changes)
        devices[key] = facts | finding.to_dict() | {"abstained": int(abstained.get(key, 0)), "says": says, "expected": float(share * len(current))}
        n, label = finding.n, facts["label"]
        if finding.status == "unseen":
            changed = f"; differs from the reference: {page.at_most_three(says)}" if says else ""
            few = f"; {finding.verdict}" if not finding.judged else ""
            alarms.append({"kind": "unseen", "device": key, "text": f"Unseen scanner {label}: {n} request{'s' if n != 1 else ''}{changed}{few}"})
        elif finding.verdict == "drift":
            alarms.append({"kind": "drift", "device": key, "text": f"Drift on {label} (n={n}): {page.at_most_three(says)}"})
        elif finding.status == "silent" and len(current) and (1 - share) ** len(current) <= SILENT_LEVEL:
            text = f"Silent: no request from {label}, about {share * len(current):.0f} expected by its share of the reference"
            alarms.append({"kind": "silent", "device": key, "text": text})
    return {
        "schema_version": 1,
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "disease": model.spec.name,
        "synthetic": model.synthetic,
        "unit": model.spec.input.unit,
        "min_n": model.spec.device.min_n,
        "reference_n": len(reference),
        "reference_devices": int(reference["device_key"].nunique()),
        "window": {
            "n": len(current),
            "from": _minute(current["time"].min()) if len(current) else None,
            "to": _minute(current["time"].max()) if len(current) else None,
            "damaged": int(damaged),
        },
        "devices": devices,
        "unseen": [devices[key]["label"] for key, f in findings.items() if f.status == "unseen"],
        "silent": [devices[key]["label"] for key, f in findings.items() if f.status == "silent"],
        "alarms": alarms,
    }


def _names(key: str, reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, str | None]:
    """Maker and model of a device as the reference or the log knows them, and the name that a reader sees."""
    names: dict[str, str | None] = {"manufacturer": None, "model": None}
    for table, columns in ((reference, ("manufacturer", "model")), (current, ("manufacturer", "device_model"))):
        rows = table[table["device_key"] == key]
        for name, column in zip(names, columns, strict=True):
            known = rows[column].dropna() if column in rows else rows["device_key"][:0]
            if names[name] is None and len(known) and str(known.iloc[0]):
                names[name] = str(known.iloc[0])
    if key == UNKNOWN_DEVICE:
        name = "a device that names itself in no header"
    else:
        name = " ".join(filter(None, names.values())) or "device without maker and model"
    return names | {"name": name, "label": f"{name} ({key})"}


def _minute(time: Any) -> str:
    return time.strftime("%Y-%m-%d %H:%M")
