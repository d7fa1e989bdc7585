"""`brain-mr`: a synthetic BIDS tree of T1-weighted heads of healthy persons, of mild impairment and of Alzheimer's disease.

    <folder>/phantom.json, dataset_description.json, participants.tsv
    <folder>/sub-syn0001/anat/sub-syn0001_T1w.nii[.gz] and .json      one volume per person
    <folder>/source-domain/...                                        a tree of its own: other persons, other scanners, no diagnosis

Each person has a random generator of his own, so the bytes depend on the seed only. What the disease looks like is frozen
(`PHANTOM_VERSION`, docs/decisions/0130-brain-phantom.md): models are tuned on it, never it on models.
"""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.brain_mr_anatomy import Brain, draw_brain, signal
from components.core.phantoms.brain_mr_scanners import KNOWN, SOURCE, UNSEEN, MrScanner, mr_scanner
from components.core.phantoms.collection import collection

PHANTOM_VERSION = 1
CLASSES = ("control", "mci", "ad")
FIELD_MM = (174.0, 210.0, 204.0)  # of view, along x, y, z
SOURCE_SHARE = 0.4  # persons of the source domain for each one of the target
FIRST_DAY, DAYS = datetime(2019, 1, 7, 8), 1000
Floats = NDArray[np.float32]


def generate(folder: Path, *, patients: int, seed: int, workers: int | None = None, unseen: bool = False) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom: the same one is kept as it is, another is replaced.
        patients: Persons with a diagnosis, one volume each, classes in turns.
        seed: Same seed, same bytes.
        workers: Processes; None for one per core.
        unseen: Only the scanner that collections never contain, with persons of its own and without a source domain.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else.
    """
    request = {"phantom": "brain-mr", "version": PHANTOM_VERSION, "seed": seed, "patients": patients, "unseen": unseen}
    others = 0 if unseen else max(4, round(SOURCE_SHARE * patients))
    jobs = [(seed, unseen, "target", n) for n in range(patients)] + [(seed, unseen, "source", n) for n in range(others)]

    def finish(root: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
        _table(root, rows[:patients], diagnosis=True)
        if others:
            _table(root / "source-domain", rows[patients:], diagnosis=False)
        counts = {"patients": patients, "source": others, "files": 2 * len(jobs), "series": len(jobs)}
        counts |= {name: sum(row["diagnosis"] == name for row in rows[:patients]) for name in CLASSES}
        return {"counts": counts, "scanners": sorted({row["scanner"] for row in rows})}

    return collection(folder, request, _person, jobs, finish, workers=workers, chunk=8)


def simulate(*, seed: int, unseen: bool, domain: str, number: int) -> tuple[Floats, NDArray[np.float64], Brain, MrScanner, int | None]:
    """Person `number` (from 0): volume (x, y, z) as stored, its affine, the person, the scanner, the class."""
    rng = np.random.default_rng([PHANTOM_VERSION, seed, int(unseen), int(domain == "source"), number])
    keys = SOURCE if domain == "source" else UNSEEN if unseen else KNOWN
    label = None if domain == "source" else number % len(CLASSES)
    scanner = mr_scanner(keys[number // len(CLASSES) % len(keys)])
    brain = draw_brain(rng, label=label, domain=domain)
    volume, affine = _scan(brain, scanner, rng)
    return volume, affine, brain, scanner, label


def _scan(brain: Brain, scanner: MrScanner, rng: np.random.Generator) -> tuple[Floats, NDArray[np.float64]]:
    """Sample the head, shade it, add Rician noise, and store it along the scanner's axes."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

    size = [round(f / v) for f, v in zip(FIELD_MM, scanner.voxel_mm, strict=True)]
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(v) for n, v in zip(size, scanner.voxel_mm, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    thick = max(scanner.voxel_mm) / 4
    seen = [signal(points + np.array([0, 0, dz], np.float32), brain, scanner.tissue) for dz in ((-thick, thick) if thick > 1 else (0.0,))]
    clean = (np.mean(seen, axis=0, dtype=np.float32) * _bias(points, scanner.bias, rng)).reshape(size)
    noise = rng.standard_normal((2, *clean.shape), dtype=np.float32) * np.float32(scanner.noise)
    magnitude = np.hypot(clean + noise[0], noise[1]) * np.float32(scanner.gain * rng.uniform(0.9, 1.1))
    affine = np.diag([*scanner.voxel_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * v for n, v in zip(size, scanner.voxel_mm, strict=True)]
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(scanner.axes))
    return np.asarray(apply_orientation(magnitude, turn), dtype=np.float32), affine @ inv_ornt_aff(turn, magnitude.shape)


def _bias(points: Floats, most: float, rng: np.random.Generator) -> Floats:
    """A smooth field around 1: a slope and a bowl, whose deviation inside the head reaches about `most`."""
    unit = points / np.float32(95)
    x, y, z = unit[:, 0], unit[:, 1], unit[:, 2]
    a = rng.normal(0, 1, 3).astype(np.float32)
    slope = (a[0] * x + a[1] * y + a[2] * z) / np.float32(np.linalg.norm(a) + 1e-6)
    bowl = 0.5 - (x * x + y * y + z * z)
    share = np.float32(rng.uniform(0.3, 0.7))
    return np.clip(1 + np.float32(most) * (share * slope + (1 - share) * bowl), 0.3, 1.7).astype(np.float32)


def _person(root: Path, job: tuple[int, bool, str, int]) -> dict[str, Any]:
    """Write one person; returns his row of participants.tsv."""
    from nibabel.nifti1 import Nifti1Image

    seed, unseen, domain, number = job
    volume, affine, brain, scanner, label = simulate(seed=seed, unseen=unseen, domain=domain, number=number)
    name = f"sub-syn{'u' if unseen else 's' if domain == 'source' else ''}{number + 1:04d}"
    folder = (root if domain == "target" else root / "source-domain") / name / "anat"
    folder.mkdir(parents=True)
    image = Nifti1Image(np.clip(np.rint(volume), 0, 32767).astype(np.int16), affine)
    image.header["descrip"] = f"SYNTHETIC dxflow brain-mr {PHANTOM_VERSION}".encode()
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    data = image.to_bytes()
    path = folder / f"{name}_T1w.nii"
    if scanner.packed:
        path, data = path.with_suffix(".nii.gz"), gzip.compress(data, 4, mtime=0)
    path.write_bytes(data)
    rng = np.random.default_rng([PHANTOM_VERSION, seed, number, 7])
    sidecar = {
        "Synthetic": True,
        "Modality": "MR",
        "Manufacturer": scanner.manufacturer,
        "ManufacturersModelName": scanner.model,
        "DeviceSerialNumber": scanner.serial,
        "SoftwareVersions": scanner.software,
        "MagneticFieldStrength": scanner.field_t,
        "EchoTime": scanner.echo_s,
        "RepetitionTime": scanner.repetition_s,
        "SliceThickness": max(scanner.voxel_mm),
        "AcquisitionDateTime": (FIRST_DAY + timedelta(days=int(rng.integers(DAYS)), minutes=int(rng.integers(600)))).isoformat(),
    }
    (folder / f"{name}_T1w.json").write_text(json.dumps(sidecar, indent=1), encoding="utf-8")
    sex = "FM"[int(rng.integers(2))]
    return {"participant_id": name, "age": brain.age, "sex": sex, "diagnosis": CLASSES[label] if label is not None else "", "scanner": scanner.key}


def _table(folder: Path, rows: list[dict[str, Any]], *, diagnosis: bool) -> None:
    columns = ["participant_id", "age", "sex", *(["diagnosis"] if diagnosis else [])]
    lines = ["\t".join(columns), *("\t".join(str(row[c]) for c in columns) for row in rows)]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {"Name": "SYNTHETIC heads, no patients", "BIDSVersion": "1.9.0", "DatasetType": "raw", "GeneratedBy": [{"Name": "dxflow brain-mr"}]}
    (folder / "dataset_description.json").write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")
