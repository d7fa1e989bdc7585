"""MR volumes as NIfTI: a BIDS tree, or any folders with a table of files.

    participants.tsv                          participant_id, and the label in `label`, `diagnosis`, `dx` or `group`; others are not read
    sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii[.gz]   volumes; only those with the suffix `input.sequence` are meant
    sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.json       the scanner and the acquisition; also T1w.json in any folder above

Without participants.tsv: `labels.csv` (or the only .csv or .tsv at the top), its first column the volume's path; `subject` or `patient` names
the person, device columns are called as in a sidecar. A set for pre-training needs no table at all.

Volumes are turned to RAS+, resampled to `input.spacing_mm` around the head's centre, cropped or padded to `input.shape` = (1, D, H, W) =
(1, foot to head, back to front, left to right), and scaled so that air is 0 and the head's 99th percentile is 1. Faces are left as they are:
who hands in volumes that show a face takes it off before (pydeface, mri_deface).

One volume is in memory per process. Scans of one session whose axes point differently are all refused, since left and right can then not
be trusted in either.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from components.core.errors import DataError, SpecError
from components.core.imaging.deidentify import device_identity, iso_time, shifted_iso
from components.core.imaging.errors import NotUsable
from components.core.imaging.inflate import MOST_EXPANSION
from components.core.imaging.nifti import Volume, read_volume
from components.core.imaging.orientation import codes
from components.core.imaging.resample import head_on_grid
from components.core.labels import class_index, words_of
from components.core.spec import DiseaseSpec
from components.ingest import bids, remarks
from components.ingest.bids import Named, Table
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected
from components.ingest.names import Names
from components.ingest.study_facts import covariates

LABELS = ("label", "diagnosis", "dx", "group")
PERSONS = ("subject", "subject_id", "patient", "patient_id", "participant_id")
SPELLED = {
    "ManufacturerModelName": "ManufacturersModelName",
    "ManufacturersModelName": "ManufacturerModelName",
    "SoftwareVersion": "SoftwareVersions",
}
Facts = dict[str, Any]


def read(job: Job) -> None:
    """Match volumes with persons and labels, then read each person's volumes on all cores."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "volume" or spec.input.shape[0] != 1 or spec.input.spacing_mm is None or spec.input.dtype != "float32":
        got = f"{spec.input.layout}, {spec.input.dtype}, {spec.input.shape[0]} channels"
        raise SpecError("reader 'nifti-bids' gives volumes", where="input.layout", got=got, allowed="volume, float32, one channel, with spacing_mm")
    if spec.target.kind in ("multilabel", "dense"):
        raise SpecError("reader 'nifti-bids' gives one class per volume", where="target.kind", got=spec.target.kind)
    out = Outcome()
    volumes = {n: name for n, item in enumerate(source.items) if (name := bids.named(item.path)) is not None}
    found = _table(job, volumes)
    if found is not None and "participant_id" not in found.header:
        chosen = _by_file(job.context, volumes, found, out)
    else:
        chosen = _by_person(job.context, volumes, found, out)
    words = {name.sub for name in volumes.values()} | _persons(found)
    out.words = word_hashes(words, job.context.pseudonymiser)
    out.found += remarks.persons(_persons(found) or words, found.file if found else 0, job.context.pseudonymiser)
    job.journal.record_once("participants", out)
    job.rows = max(1, len(volumes) - sum(r.skipped for r in out.rejected if r.file in volumes))
    table_rows = sum(found is not None and r.file == found.file for r in out.rejected)
    job.announced = sum(map(len, chosen.values())) + table_rows + sum(r.file in volumes for r in out.rejected)
    tasks = [Task(f"person-{person}", files) for person, files in sorted(chosen.items())]
    job.stage("persons", read_person, tasks, total=len(tasks), size=lambda _: 1, file=lambda t: t.payload[0][0],
              units=lambda t: [(file[0], None) for file in t.payload])  # fmt: skip


def _table(job: Job, volumes: dict[int, Named]) -> Table | None:
    """The table of participants or of files; None where a set for pre-training has none."""
    source = job.context.source
    if not volumes:
        raise DataError("no NIfTI volume", where="--source", got=f"{len(source.items)} files", allowed=".nii, .nii.gz")
    number = source.number("participants.tsv")
    if number is None:
        top = [n for n, item in enumerate(source.items) if "/" not in item.path and item.path.lower().endswith((".csv", ".tsv"))]
        named = [n for n in top if source.items[n].path.lower() in ("labels.csv", "labels.tsv")]
        number = (named or top)[0] if len(named or top) == 1 else None
    if number is None and job.context.labelled:
        raise DataError("no table of participants", where="--source", allowed="participants.tsv, or labels.csv with the volumes' paths")
    if number is None:
        return None
    found = bids.table(source, number)
    if job.context.labelled and not any(name in found.header for name in LABELS):
        where = posixpath.basename(source.items[number].path) if source.number("participants.tsv") == number else "labels.csv"
        raise DataError("no column of labels", where=where, got=f"{len(found.header)} columns", allowed=", ".join(LABELS))
    return found


def _persons(found: Table | None) -> set[str]:
    values = {row.get(name, "") for _, row in (found.rows if found else ()) for name in PERSONS}
    return {value.removeprefix("sub-") for value in values}


def label_of(spec: DiseaseSpec, row: dict[str, str]) -> int:
    """The class that a row names, by its name, an alias or its number. Raises NotUsable for any other word; `skipped` for one of `left_out`."""
    word = next((row[name] for name in LABELS if row.get(name)), "").lower()
    if word in {other.lower() for other in spec.target.left_out}:
        raise NotUsable("a class that is left out", skipped=True)
    place = class_index(word, words_of(spec.target))
    if place is None or place >= len(spec.target.classes):
        raise NotUsable("a label outside the spec's classes")
    return place


# By the person's pseudonym. What a task gets of each volume: its number, what its name says, the label (None in a set for pre-training), and facts
# of the table.
Chosen = dict[str, list[tuple[int, Named, int | None, dict[str, str]]]]


def _by_person(context: Context, volumes: dict[int, Named], found: Table | None, out: Outcome) -> Chosen:
    """Volumes of a BIDS tree, by participant."""
    spec = context.spec
    chosen, others = _meant(spec, volumes, out)
    rows = Names[tuple[int, dict[str, str]]]()
    for line, row in found.rows if found else ():
        rows.add(row["participant_id"].removeprefix("sub-"), (line, row))
    have = {rows.spelt(name.sub) for name in chosen.values()}
    alone = [line for person in rows if person not in have for line, _ in rows.of(person)]
    pseudonymiser = context.pseudonymiser
    if found is not None:
        out.rejected += [Rejected(found.file, f"a participant without a {spec.input.sequence} image", line) for line in alone]
        out.rejected += [
            Rejected(found.file, "a row that repeats another one", line, skipped=True)
            for person in rows
            if person in have and _agree(rows.of(person))
            for line, _ in rows.of(person)[1:]
        ]
    result: Chosen = defaultdict(list)
    for number, name in chosen.items():
        person = name.sub
        try:
            if not person:
                raise NotUsable("no participant in its name (sub-...)")
            own = rows.of(person)
            if context.labelled and not own:
                raise NotUsable("a participant without a row in participants.tsv")
            if not _agree(own):
                raise NotUsable("a participant with rows that contradict each other")
            row = own[0][1] if own else {}
            label = label_of(spec, row) if context.labelled else None
            result[pseudonymiser.id("patient", rows.spelt(person))].append((number, name, label, row))
        except NotUsable as reason:
            out.rejected.append(Rejected(number, reason.reason, skipped=reason.skipped))
    if not chosen:
        seen = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(4))
        raise DataError(f"no {spec.input.sequence} image", where="--source", got=seen or "nothing", allowed=f"..._{spec.input.sequence}.nii[.gz]")
    return result


def _agree(rows: list[tuple[int, dict[str, str]]]) -> bool:
    return all(row == rows[0][1] for _, row in rows)


def _meant(spec: DiseaseSpec, volumes: dict[int, Named], out: Outcome) -> tuple[dict[int, Named], Counter[str]]:
    """The volumes of the sequence that the spec wants; the others are listed, but no damage."""
    chosen = {n: name for n, name in volumes.items() if name.suffix.lower() == spec.input.sequence.lower()}
    others = Counter(_sequence(name.suffix) for n, name in volumes.items() if n not in chosen)
    out.rejected += [Rejected(n, f"another sequence than {spec.input.sequence}", skipped=True) for n in volumes if n not in chosen]
    return chosen, others


def _sequence(suffix: str) -> str:
    """A BIDS suffix; any other text may be a name and is not repeated."""
    known = ("T1w", "T2w", "FLAIR", "bold", "dwi", "PDw", "T2star", "asl", "sbref", "epi", "magnitude1", "phasediff", "pet")
    return next((name for name in known if name.lower() == suffix.lower()), "of another kind")


def _by_file(context: Context, volumes: dict[int, Named], found: Table, out: Outcome) -> Chosen:
    """Volumes that a table names one by one; a suffix of BIDS that says another sequence is believed."""
    spec, source = context.spec, context.source
    folder = posixpath.dirname(source.items[found.file].path)
    first = found.header[0]
    result: Chosen = defaultdict(list)
    meant: dict[int, list[tuple[int, dict[str, str]]]] = defaultdict(list)
    for line, row in found.rows:
        try:
            path = posixpath.normpath(posixpath.join(folder, row[first].replace("\\", "/")))
            number = source.number(path)
            if number is None or number not in volumes:
                raise NotUsable(f"a row without its volume{source.why_absent(path) if number is None else ''}")
            meant[number].append((line, row))
        except NotUsable as reason:
            out.rejected.append(Rejected(found.file, reason.reason, line))
    for number, rows in meant.items():
        if not _agree([(line, row | {first: ""}) for line, row in rows]):
            out.rejected += [Rejected(found.file, "a volume with rows that contradict each other", line) for line, _ in rows]
            continue
        out.rejected += [Rejected(found.file, "a row that repeats another one", line, skipped=True) for line, _ in rows[1:]]
        line, row = rows[0]
        try:
            name, path = volumes[number], source.items[number].path
            if _sequence(name.suffix) not in ("of another kind", spec.input.sequence):
                raise NotUsable(f"another sequence than {spec.input.sequence}")
            person = next((row[column] for column in PERSONS if row.get(column)), name.sub)
            if not person and spec.split.grouping != "none":
                raise NotUsable(f"no {spec.split.grouping}, which the grouping needs")
            label = label_of(spec, row) if context.labelled else None
            known = context.pseudonymiser.id("patient", person) if person else context.pseudonymiser.id("path", path)
            result[known].append((number, name, label, row))
        except NotUsable as reason:
            out.rejected.append(Rejected(found.file, reason.reason, line, reason.skipped))
    out.rejected += [Rejected(n, "a volume without a row", skipped=True) for n in volumes if n not in meant]
    return result


def read_person(context: Context, task: Task) -> Outcome:
    """One person's volumes."""
    out = Outcome()
    files = task.payload
    crossed = _crossed(context, files)
    with Arrays(context, task, out) as arrays:
        for number, name, label, row in files:
            try:
                if number in crossed:
                    raise NotUsable("another orientation than the other scans of its session")
                volume = _volume(context, number)
                path = context.source.items[number].path
                facts = bids.sidecar(context.source, path, name) or _as_sidecar(row)
                told = row | {"acquired_at": bids.text(facts, "AcquisitionDateTime")}
                for remark in remarks.unread(told, dated=iso_time(told["acquired_at"]) is not None):
                    out.notes[remark] = out.notes.get(remark, 0) + 1
                shape = context.spec.input.shape
                spacing = context.spec.input.spacing_mm
                assert spacing is not None
                grid = head_on_grid(volume, shape=(shape[1], shape[2], shape[3]), spacing_mm=(spacing[0], spacing[1], spacing[2]))
                person = task.key.removeprefix("person-")
                arrays.add(_row(context, path, person, volume, facts, label) | covariates(row), grid[None])
            except NotUsable as reason:
                out.rejected.append(Rejected(number, reason.reason, reason.offset))
            except OSError:
                out.rejected.append(Rejected(number, "unreadable file"))
            except MemoryError:
                out.rejected.append(Rejected(number, "needs more memory than there is"))
    return out


def _crossed(context: Context, files: list[tuple[int, Named, int | None, dict[str, str]]]) -> set[int]:
    """Volumes of sessions whose volumes do not agree on where their axes point."""
    if len(files) < 2:
        return set()
    sessions: dict[str, dict[int, str]] = defaultdict(dict)
    for number, name, _, _ in files:
        try:
            sessions[name.ses][number] = codes(_volume(context, number).affine)
        except (NotUsable, OSError, MemoryError):  # refused with its own reason later
            continue
    return {number for found in sessions.values() if len(set(found.values())) > 1 for number in found}


def _volume(context: Context, number: int) -> Volume:
    context.item(number)
    with context.source.open(number) as handle:
        limits, frames = context.spec.limits, context.spec.input.frames
        return read_volume(handle, most_voxels=limits.pixels_per_image, frames=frames, most_expansion=MOST_EXPANSION)


def _as_sidecar(row: dict[str, str]) -> Facts:
    """A table's device columns under a sidecar's names."""
    names = ("Manufacturer", "ManufacturersModelName", "DeviceSerialNumber", "StationName", "SoftwareVersions", "InstitutionName")
    facts: Facts = {name: row[name.lower()] for name in names if row.get(name.lower())}
    if row.get("scanner") or row.get("device"):
        facts["DeviceSerialNumber"] = row.get("scanner") or row["device"]
    if row.get("manufacturer") and row.get("model"):
        facts["ManufacturersModelName"] = row["model"]
    with contextlib.suppress(ValueError):
        facts["MagneticFieldStrength"] = float(row.get("magneticfieldstrength", "") or row.get("field_strength", ""))
    return facts


def _row(context: Context, path: str, person: str, volume: Volume, facts: Facts, label: int | None) -> dict[str, Any]:
    pseudonymiser = context.pseudonymiser
    key = tuple(bids.text(facts, name, SPELLED.get(name, name)) for name in context.spec.device.key)
    identity = device_identity(
        pseudonymiser,
        key=key,
        manufacturer=bids.text(facts, "Manufacturer"),
        model=bids.text(facts, "ManufacturersModelName", "ManufacturerModelName"),
        software=bids.text(facts, "SoftwareVersions", "SoftwareVersion"),
        site=bids.text(facts, "InstitutionName"),
    )
    sample = pseudonymiser.id("sample", path)
    sizes = volume.spacing_mm
    grouping = context.spec.split.grouping
    return {
        "sample_id": sample,
        "group_id": person if grouping in ("patient", "subject") else sample,
        "patient_id": person,
        "series_id": sample,
        **identity.columns(shifted_iso(iso_time(bids.text(facts, "AcquisitionDateTime")), pseudonymiser)),
        "acq_slice_thickness_mm": bids.number(facts, "SliceThickness", 0.05, 50) or max(sizes),
        "acq_pixel_mm": min(sizes),
        "acq_rows": int(np.sort(volume.data.shape)[-1]),
        "acq_columns": int(np.sort(volume.data.shape)[-2]),
        "acq_bits": volume.bits,
        "acq_modality": "MR",
        "acq_field_strength_t": bids.number(facts, "MagneticFieldStrength", 0.01, 30),
        "label": label,
        "synthetic": facts.get("Synthetic") is True or volume.description.startswith("SYNTHETIC"),
    }
