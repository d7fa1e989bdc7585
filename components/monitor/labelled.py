"""Late labels on their way in, and what they say of windows that were judged long ago.

A delivery is a CSV file: `sample` (the answer's request id), `label` (a class), `at` (ISO 8601 with a zone: when the label was made), and optionally
`version` (digest of the model). What was judged then stays as it was judged: a label adds the true AUC, its coverage and its revision to the window.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.errors import DataError
from components.core.inference_log import read_log
from components.core.package import ModelPackage
from components.monitor.late_labels import Answers, Label, LabelStore, Taken
from components.monitor.true_performance import Snapshot, SnapshotStore, snapshots
from components.monitor.unknown_devices import OTHERS
from components.monitor.watched import devices, patients

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("sample", "label", "at")
REQUEST = "request_id"
"""What `dxflow predict --out` calls the answer's id: it goes before `sample`, which there is the sample's own."""
MAX_BYTES = 256 << 20


def store(state: Path, model: ModelPackage) -> LabelStore:
    """The labels of one disease's answers. Raises nothing: the folder is made."""
    return LabelStore(state / model.disease / "labels", model.spec.target.classes)


def take(*, package: Path, log: Path, state: Path, file: Path, now: datetime) -> Taken:
    """Add a delivery.

    Raises:
        DataError: Not a package, a log, or a CSV file with the columns. A row that does not fit is refused with its reason; the others are taken.
    """
    model = ModelPackage.open(package, allow_synthetic=True)
    rows = list(_rows(file))
    return store(state, model).add(rows, answers_of(log, model), received=now)


def take_inbox(log: Path, state: Path, model: ModelPackage, now: datetime) -> int:
    """Add what lies in the disease's `inbox` folder, where the reading page leaves readers' verdicts; returns how many of them are new labels.

    A file that is no delivery gets the ending `.refused` and is not looked at again.
    """
    files = sorted((state / model.disease / "inbox").glob("*.csv"))
    answers = answers_of(log, model) if files else None
    added = 0
    for file in files:
        assert answers is not None
        try:
            taken = store(state, model).add(list(_rows(file)), answers, received=now)
            added += taken.counts["new"] + taken.counts["corrected"]
        except DataError:
            file.rename(file.with_name(f"{file.name}.refused"))
            continue
        file.unlink()
    return added


def _rows(file: Path) -> Iterator[Label]:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DataError("labels cannot be read", where=str(file), got=type(error).__name__) from None
    if size > MAX_BYTES:
        raise DataError("too large", where=str(file), got=f"{size} bytes", allowed=f"{MAX_BYTES} bytes")
    try:
        with open(file, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            answer = REQUEST if REQUEST in (reader.fieldnames or ()) else "sample"
            if missing := [name for name in (answer, *COLUMNS[1:]) if name not in (reader.fieldnames or ())]:
                raise DataError("labels without columns", where=str(file), got=f"no {', '.join(missing)}", allowed=", ".join(COLUMNS))
            for number, row in enumerate(reader, 2):
                try:
                    at = datetime.fromisoformat(row["at"] or "")
                except ValueError:
                    raise DataError("not a time", where=f"{file}:{number}", allowed="ISO 8601 with a zone") from None
                yield Label(row[answer] or "", row["label"] or "", at, row.get("version") or "")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("not a table of labels", where=str(file), got=type(error).__name__, allowed="CSV, UTF-8") from None


def answers_of(log: Path, model: ModelPackage) -> Answers:
    """What a model answered, each once, the first time. Abstentions are known but not answered."""
    classes = [f"score_{name}" for name in model.spec.target.classes]
    wanted = ["request_id", "time", "device_key", "digest", "patient", "abstain", "status", "model", *classes]

    def keep(part: pd.DataFrame) -> pd.DataFrame:
        mine = part[(part["model"] == model.name) & part["status"].isin(("answered", "abstained")) & part["time"].notna()]
        return mine.reindex(columns=[*wanted, *(c for c in ("event", "event_id") if c in mine)])

    table = read_log(log, keep=keep)
    table = table[table["request_id"].notna()].drop_duplicates("request_id").reset_index(drop=True)
    p = np.stack([table[name].to_numpy(np.float64) if name in table else np.full(len(table), np.nan) for name in classes], axis=1)
    p[table["abstain"].to_numpy(bool)] = np.nan
    version = table["digest"].where(~table["digest"].isin(model.replaces), model.digest).fillna("").to_numpy(str)
    return Answers(
        sample=table["request_id"].to_numpy(str), time=table["time"].dt.tz_localize(None).to_numpy("datetime64[us]"),
        device=np.array(devices(table), dtype=str), version=version, group=np.array(patients(table), dtype=str),
        probabilities=p,
    )  # fmt: skip


def true_figures(
    log: Path, state: Path, model: ModelPackage, windows: Mapping[int, int], told: Mapping[int, Set[str]], now: datetime
) -> dict[tuple[int, str], Snapshot]:
    """(start, device) -> the latest revision, for every window that a label has reached.

    Args:
        windows: Start -> end of judged windows, Unix seconds.
        told: Start -> the devices that were judged one by one; others that answered are one together (`unknown_devices.py`).
    """
    labels = store(state, model)
    known = labels.in_force(now)
    if not known:
        return {}
    answers = answers_of(log, model)
    mine = answers.version == model.digest
    second = answers.time.astype("datetime64[s]").astype(np.int64)
    reached = second[mine & np.isin(answers.sample, list(known))]
    kept = SnapshotStore(state / model.disease / "true")
    found: dict[tuple[int, str], Snapshot] = {}
    for start, end in windows.items():
        if not ((reached >= start) & (reached < end)).any():
            continue
        first, last = (datetime.fromtimestamp(t, UTC) for t in (start, end))
        named = replace(answers, device=np.where(np.isin(answers.device, sorted(told[start])), answers.device, OTHERS))
        made = snapshots(named, known, model.spec.target.classes, start=first, end=last, as_of=now, positive=model.spec.positive_indices)
        made = [s for s in made if s.version == model.digest]
        kept.put(made)
        found |= {(start, s.device): s for s in made}
    return found


def row_of(snapshot: Snapshot) -> dict[str, Any]:
    """The columns of the history that a snapshot fills."""
    return {
        "auc_true": snapshot.value, "auc_true_low": snapshot.low, "auc_true_high": snapshot.high, "labelled": snapshot.labelled,
        "answered": snapshot.answered,
    }  # fmt: skip
