"""Recordings of worn sensors as text tables, one file each; `[recording]` of the spec says what the columns mean.

Files whose name does not match `recording.file` are left alone, and so is `phantom.json`. A sample is one window: `place` is its start in
seconds on the recording's clock, the group is the subject, the device is what `device.key` names: groups of the file name's pattern, or
`# key: value` lines at the head of the file (device, manufacturer, model, software, site, acquired_at, synthetic). What cannot be used is
named by its file and its time in milliseconds: no window crosses it, or judges it. The dataset's notes hold how much of all recordings is judged.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections import Counter
from typing import Any

import numpy as np

from components.core.errors import DataError, SpecError
from components.core.imaging.deidentify import device_identity, iso_time, shifted_iso
from components.core.imaging.errors import NotUsable
from components.core.recordings.reading import Reading, typed
from components.core.recordings.table import Table
from components.ingest import remarks
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected


def read(job: Job) -> None:
    """One task for each recording; damage is then counted in windows."""
    context = job.context
    spec, items = context.spec, context.source.items
    rule = spec.recording
    if spec.input.layout != "window" or rule is None:
        raise SpecError(
            "reader 'sensor-csv' gives windows", where="input.layout, [recording]", got=spec.input.layout, allowed="window, with [recording]"
        )
    length = int(np.floor((spec.input.window_s or 0) * (spec.input.rate_hz or 0) + 1e-6))
    if spec.input.shape[1] != length:
        raise SpecError("window and shape differ", where="input.shape", got=list(spec.input.shape), allowed=f"{length} samples: window_s x rate_hz")
    if spec.split.grouping not in ("subject", "patient", "none"):
        raise SpecError("recordings are of subjects", where="split.grouping", got=spec.split.grouping, allowed="subject, patient, none")
    named = [n for n, item in enumerate(items) if re.fullmatch(rule.file, posixpath.basename(item.path))]
    if not named:
        raise DataError("no recording", where="--source", got=f"{len(items)} files", allowed=f"names as recording.file: {rule.file}")
    job.journal.record_once("names", Outcome(notes={"files of other names": len(items) - len(named)}))
    tasks = [Task(f"recording-{n:06d}", n) for n in named]
    job.stage("recordings", read_recording, tasks, total=sum(max(0, items[n].size) for n in named), size=lambda t: max(0, items[t.payload].size),
              file=lambda t: t.payload)  # fmt: skip
    _lost(job, named)
    job.rows = job.journal.count() + job.journal.damaged("row")


def _lost(job: Job, named: list[int]) -> None:
    """Raises DataError when too many recordings gave nothing: counted in windows, a file lost as a whole would be one fault among thousands."""
    used = {task for task, _, _ in job.journal.samples()}
    empty = {n for n in named if f"recording-{n:06d}" not in used}
    faults = {(r.file, r.reason) for r in job.journal.rejected() if r.file in empty}
    lost, share = len({file for file, _ in faults}), job.context.spec.limits.quarantine_share
    if lost > share * len(named):
        commonest = Counter(reason for _, reason in faults).most_common(3)
        raise DataError(
            "too much of the source is unusable", where="--source",
            got=f"{lost} of {len(named)} recordings: {', '.join(f'{reason} ({n})' for reason, n in commonest)}",
            allowed=f"limits.quarantine_share = {share:g}",
        )  # fmt: skip


def read_recording(context: Context, task: Task) -> Outcome:
    """All windows of one file."""
    number: int = task.payload
    out = Outcome()
    try:
        with Arrays(context, task, out) as arrays:
            _read(context, number, arrays, out)
    except NotUsable as reason:
        out.samples.clear()  # what could be read before the fault is not the recording
        out.rejected.append(Rejected(number, reason.reason, reason.offset, reason.skipped))
    except OSError:
        out.samples.clear()
        out.rejected.append(Rejected(number, "unreadable file"))
    return out


def _read(context: Context, number: int, arrays: Arrays, out: Outcome) -> None:
    spec, item, pseudonymiser = context.spec, context.item(number), context.pseudonymiser
    rule = spec.recording
    assert rule is not None
    matched = re.fullmatch(rule.file, posixpath.basename(item.path))
    named = {k: v for k, v in (matched.groupdict() if matched else {}).items() if v}
    out.words = word_hashes([named["subject"]] if len(named["subject"]) > 2 else [], pseudonymiser)
    out.found += remarks.persons([named["subject"]], number, pseudonymiser)
    with context.source.open(number) as binary:
        table = Table(io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace"), rule, spec.target.classes)
        facts: dict[str, Any] = {}
        reading = Reading(table, spec)
        for k, window in enumerate(reading.windows()):
            if window.fault is not None:
                out.rejected.append(Rejected(number, window.fault, round(window.start_s * 1000)))
                continue
            if not facts:
                facts = _facts(context, table, named, item.path) | {"acq_rate_hz": round(1 / table.period_s, 1)}
                out.notes |= dict.fromkeys(remarks.unread(table.facts | named, dated=facts["acquired_at"] is not None), 1)
            row = facts | {"sample_id": pseudonymiser.id("sample", item.path, str(k)), "label": window.label, "place": [window.start_s]}
            arrays.add(row, typed(window.values, spec))
    out.rejected += [Rejected(number, reason, offset) for reason, offset in table.broken]
    coverage = reading.coverage()
    out.notes |= {"ms recorded": round(1000 * coverage.recorded_s), "ms judged": round(1000 * coverage.judged_s), "windows": coverage.windows}
    out.notes |= {"windows missing": coverage.missing}
    out.notes |= {f"ms not judged: {reason}": round(1000 * seconds) for reason, seconds in coverage.lost_s.items()}


def _facts(context: Context, table: Table, named: dict[str, str], path: str) -> dict[str, Any]:
    """Manifest columns that all windows of a recording share."""
    spec, pseudonymiser = context.spec, context.pseudonymiser
    known = table.facts | named
    person = pseudonymiser.id("patient", named["subject"])
    recording = pseudonymiser.id("recording", path)
    identity = device_identity(
        pseudonymiser, key=tuple(known.get(name, "") for name in spec.device.key), manufacturer=known.get("manufacturer", ""),
        model=known.get("model", ""), software=known.get("software", ""), site=known.get("site", ""),
    )  # fmt: skip
    return {
        "group_id": recording if spec.split.grouping == "none" else person,
        "patient_id": person,
        "series_id": recording,
        **identity.columns(shifted_iso(iso_time(known.get("acquired_at", "")), pseudonymiser)),
        "synthetic": known.get("synthetic", "").lower() in ("1", "true", "yes"),
    }
