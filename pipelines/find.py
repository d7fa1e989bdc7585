"""`dxflow find`: one CT study through the whole chain. Nodules with their place, size, outline and the model's answer, or why it gives none.

The diagnosis is the server's own: `serving.predictor.Predictor` on the patch around each finding, with the device's profile, the package's
calibration and its operating point.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from components.core import wording
from components.core.atomic import atomic_dir
from components.core.chain.candidate_classifier import Detector
from components.core.chain.ct_volume import CtVolume, read_volume
from components.core.chain.findings import Finding, check, label_volume
from components.core.chain.findings import find as located
from components.core.cores import available_cores
from components.core.errors import SpecError
from components.core.imaging import laterality
from components.core.pseudonym import Pseudonymiser, load_pseudonymiser
from serving.nodules import detector, opened, queries
from serving.predictor import Predictor

RESULT, OUTLINES = "findings.json", "outlines.nii.gz"


def find(study: Path, *, model: Predictor, chooser: Detector, pseudonymiser: Pseudonymiser, out: Path | None = None) -> dict[str, Any]:
    """Find, outline and diagnose.

    Args:
        out: Folder for `findings.json` and `outlines.nii.gz`, whole or not at all; must not exist.

    Returns:
        What `findings.json` holds: `findings` (number, position_mm in patient coordinates LPS, place: the same in words, slice from 0 along
        the normal, file, row and column in pixels, diameter_mm, volume_mm3, detection, probability of the positive class or None, decision,
        abstain, reasons), `study`, `model`, `seconds` by step.

    Raises:
        DataError: The study is no usable CT series.
    """
    if out is not None and out.exists():
        raise SpecError("the folder exists", where="--out", got=str(out), allowed="a new one")
    clock = [time.monotonic()]
    volume = read_volume(study, spec=model.spec, pseudonymiser=pseudonymiser, workers=available_cores())
    clock.append(time.monotonic())
    found, lungs = located(volume, chooser)
    clock.append(time.monotonic())
    answers = model.answer(queries(volume, found, model.spec)) if found else []
    clock.append(time.monotonic())
    positive = model.spec.target.classes[model.spec.positive_index]
    result = {
        "synthetic": volume.synthetic or model.package.synthetic or chooser.synthetic,
        "study": _study(volume, lungs.litres),
        "model": {name: answers[0][name] for name in ("model", "version", "digest")} if answers else {"model": model.package.name},
        "device": answers[0]["device"] if answers else None,
        "detector": {"made_from": chooser.made_from, "synthetic": chooser.synthetic, "threshold": chooser.threshold},
        "positive": positive,
        "findings": [_row(n, f, a, volume, positive) for n, (f, a) in enumerate(zip(found, answers, strict=True), 1)],
        "seconds": {name: round(b - a, 2) for name, a, b in zip(("read", "find", "diagnose"), clock, clock[1:], strict=False)},
    }  # fmt: skip
    if out is not None:
        with atomic_dir(out) as folder:
            (folder / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            write_nifti(folder / OUTLINES, volume, found)
    return result


def _study(volume: CtVolume, litres: float) -> dict[str, Any]:
    return {
        "series": volume.series,
        "slices": len(volume.hu),
        "step_mm": [round(s, 4) for s in volume.step_mm],
        "lung_litres": round(litres, 3),
        "ignored_files": volume.ignored,
    }


def _row(number: int, f: Finding, answer: dict[str, Any], volume: CtVolume, positive: str) -> dict[str, Any]:
    k, row, column = f.middle
    return {
        "number": number,
        "position_mm": [round(v, 2) for v in f.position_mm],
        "place": laterality.offset(f.position_mm),
        "slice": k,
        "file": volume.files[k],
        "row": round(row, 2),
        "column": round(column, 2),
        "diameter_mm": round(f.diameter_mm, 2),
        "volume_mm3": round(f.volume_mm3, 1),
        "detection": round(f.detection, 4),
        "probability": answer["probabilities"].get(positive),
        "decision": answer["decision"],
        "abstain": answer["abstain"],
        "reasons": answer["reasons"],
    }


def write_nifti(path: Path, volume: CtVolume, found: list[Finding]) -> None:
    """The outlines as labels 1..n on the series' own grid; NIfTI's world is RAS, DICOM's is LPS: x and y change sign."""
    import nibabel as nib
    import numpy as np

    affine = np.eye(4)
    affine[:3, :3] = (np.array(volume.axes) * np.array(volume.step_mm)[:, None])[::-1].T
    affine[:3, 3] = volume.origin_mm
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    image = nib.Nifti1Image(label_volume(volume, found).transpose(2, 1, 0), affine)  # pyright: ignore[reportPrivateImportUsage]
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"dxflow outlines" + (b", SYNTHETIC" if volume.synthetic else b"")
    nib.save(image, path)  # pyright: ignore[reportPrivateImportUsage]


def run(model: str, study: Path, *, out: Path | None, own_detector: Path | None, allow_synthetic: bool) -> dict[str, Any]:
    """What the command does."""
    from pipelines.models import fetch

    loaded = opened(fetch(model, allow_synthetic=allow_synthetic), allow_synthetic=allow_synthetic)
    check(loaded.spec)
    chooser = detector(own_detector, allow_synthetic=allow_synthetic)
    return find(study, model=loaded, chooser=chooser, pseudonymiser=load_pseudonymiser()[0], out=out)


def show(result: dict[str, Any], out: Path | None) -> None:
    """Print the findings as a table."""
    import click

    from pipelines.terminal import table

    def answer(f: dict[str, Any]) -> str:
        return f"no answer: {'; '.join(f['reasons'])}" if f["abstain"] else f"{f['decision']}, {wording.probability(f['probability'])}"

    study = result["study"]
    table(
        ["nodule", "from origin, mm", "slice", "row, column", "diameter mm", "detection", result["positive"]],
        [
            [
                f["number"],
                laterality.letters(f["position_mm"]),
                f"{f['slice'] + 1} of {study['slices']}",
                f"{f['row']:.0f}, {f['column']:.0f}",
                f["diameter_mm"],
                wording.probability(f["detection"]),
                answer(f),
            ]
            for f in result["findings"]
        ],
        title="SYNTHETIC: from simulated data or by a model of such data" if result["synthetic"] else None,
    )
    seconds = sum(result["seconds"].values())
    click.echo(f"{len(result['findings'])} findings in {study['slices']} slices, {study['lung_litres']:.2f} litres of lung, {seconds:.1f} s")
    if out is not None:
        click.echo(f"{out / RESULT}, {out / OUTLINES}")
