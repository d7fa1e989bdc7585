"""Late labels on their way in, and what they say of windows that were judged long ago.

A delivery is a CSV file (commas, semicolons or tabs; UTF-8): `sample` (the answer's request id), `label` (a class, an alias of it or its number, as
ingest reads them), `at` (ISO 8601 with a zone: when the label was made), and optionally `version` (digest of the model). What was judged then stays
as it was judged: a label adds the true AUC, its coverage and its revision to the window.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from components.core.errors import DataError
from components.core.inference_log import read_log
from components.core.labels import class_of
from components.core.package import ModelPackage
from components.core.spec import Target
from components.monitor.late_labels import Answers, Label, LabelStore, Taken, texts
from components.monitor.true_performance import Snapshot, SnapshotStore, snapshots
from components.monitor.unknown_devices import OTHERS
from components.monitor.watched import devices, patients

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("sample", "label", "at")
REQUEST = "request_id"
"""What `dxflow predict --out` calls the answer's id: it goes before `sample`, which there is the sample's own."""
MAX_BYTES = 256 << 20
DELIMITERS = (",", ";", "\t")
ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]|$)")
FORM = "as 2026-03-02T14:05:00+01:00"
YEARS = range(1971, 2200)


def store(state: Path, model: ModelPackage) -> LabelStore:
    """The labels of one disease's answers. Raises nothing: the folder is made."""
    return LabelStore(state / model.disease / "labels", model.spec.target.classes)


def take(*, package: Path, log: Path, state: Path, file: Path, now: datetime) -> Taken:
    """Add a delivery.

    Raises:
        DataError: Not a package, a log, or a CSV file with the columns. A row that does not fit is refused with its reason; the others are taken.
    """
    model = ModelPackage.open(package, allow_synthetic=True)
    rows = _rows(file, model.spec.target)
    return store(state, model).add(rows, answers_of(log, model), received=now)


def take_inbox(log: Path, state: Path, model: ModelPackage, now: datetime) -> tuple[int, int]:
    """Add what lies in the disease's `inbox` folder, where the reading page leaves readers' verdicts; returns how many of them are new labels, and
    how many files lie there refused, of this look or an earlier one.

    A file that is no delivery, or of which a row was refused, gets the ending `.refused` and is not looked at again: a verdict is never thrown away,
    and told until somebody takes the file or its ending away.
    """
    inbox = state / model.disease / "inbox"
    files = sorted(inbox.glob("*.csv"))
    answers = answers_of(log, model) if files else None
    added = 0
    for file in files:
        assert answers is not None
        try:
            taken = store(state, model).add(_rows(file, model.spec.target), answers, received=now)
        except DataError:
            lost = 1
        else:
            added, lost = added + taken.counts["new"] + taken.counts["corrected"], taken.counts["refused"]
        if lost:
            file.rename(file.with_name(f"{file.name}.refused"))
        else:
            file.unlink()
    return added, sum(1 for _ in inbox.glob("*.refused"))


def _rows(file: Path, target: Target) -> list[Label]:
    """The labels of a delivery, classes by their own names. Raises DataError where a part cannot be read: nothing of it is taken then."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DataError("labels cannot be read", where=str(file), got=type(error).__name__) from None
    if size > MAX_BYTES:
        raise DataError("too large", where=str(file), got=f"{size} bytes", allowed=f"{MAX_BYTES} bytes")
    try:
        with open(file, newline="", encoding="utf-8-sig") as handle:
            return list(_read(handle, str(file), target))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("not a table of labels", where=str(file), got=type(error).__name__, allowed="CSV, UTF-8") from None


def _read(handle: TextIO, where: str, target: Target) -> Iterator[Label]:
    first = handle.readline()
    handle.seek(0)
    reader = csv.reader(handle, delimiter=max(DELIMITERS, key=first.count), strict=True)
    header = [name.strip().lower() for name in next(reader, [])]
    answer = REQUEST if REQUEST in header else "sample"
    if missing := [name for name in (answer, *COLUMNS[1:]) if name not in header]:
        raise DataError("labels without columns", where=where, got=f"no {', '.join(missing)}", allowed=", ".join(COLUMNS))
    if twice := sum(header.count(name) > 1 for name in (answer, *COLUMNS[1:], "version")):
        raise DataError("columns with one name", where=where, got=f"{twice} names", allowed="each of them once")
    count, uneven, untimed, rows = 0, list[int](), list[int](), list[Label]()
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        count += 1
        if len(values) != len(header):
            uneven.append(reader.line_num)
            continue
        row = {name: value.strip() for name, value in zip(header, values, strict=True)}
        at = _time(row["at"])
        if at is None:
            untimed.append(reader.line_num)
            continue
        rows.append(Label(row[answer], class_of(target, row["label"]) or row["label"], at, row.get("version") or ""))
    if uneven:
        raise DataError(
            "rows that do not fit the header", where=f"{where}:{uneven[0]}", got=f"{len(uneven)} of {count} rows", allowed=f"{len(header)} values"
        )
    if untimed:
        raise DataError("times that are not ISO 8601", where=f"{where}:{untimed[0]}", got=f"{len(untimed)} of {count} rows", allowed=FORM)
    yield from rows


def _time(text: str) -> datetime | None:
    """None for what is no date of these two centuries: days before months and numbers of seconds cannot be told apart from one another."""
    if not ISO.match(text):  # Python takes 2026-W10-1 and 20260302 as well, and a table of such numbers is no table of dates
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.year in YEARS else None


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
    version = table["digest"].where(~table["digest"].isin(model.replaces), model.digest).fillna("")
    return Answers(
        sample=texts(table["request_id"]), time=table["time"].dt.tz_localize(None).to_numpy("datetime64[us]"),
        device=texts(devices(table)), version=texts(version), group=texts(patients(table)),
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
