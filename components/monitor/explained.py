"""What labels that arrived later say of a window: did the device see other patients, and is what changed still there among patients alike?

A verdict stays as it was given: it says what was known when the window ended, and labels reach some answers and not others. They explain it. Where
most of a window's answers have labels and these are a fair draw, the feature that was alarmed is compared once more within the diagnoses, with the
reference weighted to the window's share of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.figure_words import Words
from components.core.inference_log import read_log
from components.monitor import case_mix, words
from components.monitor.detect import MIN_MIX, MIN_N, WATCH, changes_of
from components.monitor.reference import POOLED, Baseline, Reference
from components.monitor.sketch import Sketch, hashes
from components.monitor.true_performance import Snapshot
from components.monitor.watched import Watched, devices, patients, reference_patients

if TYPE_CHECKING:
    import pandas as pd

ENOUGH = 0.8
"""Share of a window's answers with a label, from which on they speak for all of them."""
OTHER = "another diagnosis"
Key = tuple[int, str]


def by_labels(
    watched: Watched, log: Path, rows: Mapping[Key, Mapping[str, Any]], snapshots: Mapping[Key, Snapshot], labels: Mapping[str, str]
) -> dict[Key, str]:
    """(start, device) -> a sentence, for windows whose labels have something to say.

    Args:
        rows: Of the history, of at least the windows of `snapshots`.
        labels: Answer's id -> class.
    """
    if "label" not in watched.model.reference or not labels or watched.model.spec.aggregate is not None:
        return {}  # labels of slides say nothing of how the reference's tiles are mixed
    strata = _strata(watched)
    reference = _reference(watched, strata)
    answers = _answers(watched, log, labels)
    second = answers["time"].to_numpy("datetime64[s]").astype(np.int64)
    key = np.array(devices(answers), dtype=str)
    out: dict[Key, str] = {}
    for (start, device), snapshot in snapshots.items():
        row = rows.get((start, device))
        baseline, against = reference.baseline(device)
        if row is None or against == POOLED:
            continue
        part = answers[(key == device) & (second >= start) & (second < row["window_end"])].reset_index(drop=True)
        if len(part) < MIN_N:
            continue
        sketch = Sketch.empty(len(reference.strata), len(reference.features))
        place = np.array([strata[labels[name]] for name in part["request_id"].astype(str)], dtype=np.int64)
        sketch.add(baseline.places, watched.columns(part), hashes(patients(part)), place)
        if said := _sentence(reference, baseline, sketch, row, snapshot, Words.of(watched.model.spec.input)):
            out[start, device] = said
    return out


def _sentence(reference: Reference, baseline: Baseline, sketch: Sketch, row: Mapping[str, Any], snapshot: Snapshot, of: Words) -> str:
    before, after = (s.counts[:, 0].sum(-1).astype(np.float64) for s in (baseline.sketch, sketch))
    a, b = before / before.sum(), after / after.sum()
    k = int(np.abs(b - a).argmax()) if len(a) > 2 else 0  # of two that mirror each other, the one that is looked for
    other = case_mix.changed(before, after, before.sum() / baseline.sketch.per_patient, after.sum() / sketch.per_patient)
    said = ""
    if other and abs(b[k] - a[k]) >= MIN_MIX:
        said = f"by {snapshot.labelled} labels of {snapshot.answered} answers the case mix changed: {words.mixed(reference.strata[k], a[k], b[k])}"
    if row["verdict"] != "drift" or snapshot.selective or (snapshot.coverage or 0.0) < ENOUGH:
        return said
    found = [c for c in changes_of(reference, baseline, sketch)[0] if c.feature == row["drift_feature"]]
    if not found:
        return said
    still = any(c.p <= WATCH and c.matters for c in found)
    name = words.plain(found[0].feature, of)
    if not said:
        return f"by {snapshot.labelled} labels the patients are as before: they do not explain it" if still else ""
    return said + (
        f"; {name} still differs within a diagnosis: that does not explain it" if still else f"; {name} does not differ within a diagnosis"
    )


def _strata(watched: Watched) -> dict[str, int]:
    """Class -> place: what is looked for and the rest, or each class where nothing is."""
    classes, positive = watched.model.spec.target.classes, watched.model.spec.positive_indices
    return {name: (0 if n in positive else 1) if positive else n for n, name in enumerate(classes)}


def _reference(watched: Watched, strata: Mapping[str, int]) -> Reference:
    table, classes = watched.model.reference, watched.model.spec.target.classes
    known = np.flatnonzero(table["label"].notna().to_numpy())
    positive = [name for name in classes if strata[name] == 0]
    named = (" or ".join(positive), OTHER) if len(set(strata.values())) < len(classes) or len(classes) == 2 else tuple(classes)
    places = [named[strata[classes[int(n)]]] for n in table["label"].iloc[known]]
    columns = {name: values[known] for name, values in watched.reference_columns().items()}
    device = table["device_key"].astype(str).to_numpy()[known].tolist()
    who = np.asarray(reference_patients(table))[known].tolist()
    return Reference.of({name: columns[name] for name in watched.groups}, device, who, places, named=named)


def _answers(watched: Watched, log: Path, labels: Mapping[str, str]) -> pd.DataFrame:
    """Labelled answers of the model, each once."""
    model = watched.model

    def keep(part: pd.DataFrame) -> pd.DataFrame:
        mine = (part["model"] == model.name) & part["status"].isin(("answered", "abstained")) & part["time"].notna()
        return part[mine & part["digest"].isin(model.digests) & part["request_id"].astype(str).isin(labels)]

    return read_log(log, keep=keep).drop_duplicates("request_id").reset_index(drop=True)
