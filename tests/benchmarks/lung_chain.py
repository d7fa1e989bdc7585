"""The whole lung chain on patients that neither its detector nor its diagnosing model has seen: FROC, Dice, AUC. One JSON on the last line.

    python -m tests.benchmarks.lung_chain [folder]

Three synthetic collections: the pipeline trains lung-nodule on the spec's own (seed 20161); `python -m pipelines.detector` has fitted
`components/core/chain/detector.json` on seed 501; the chain is judged on seed 901.
The phantom's series are slabs of 20 mm, about 0.4 litres of lung: false alarms are per slab, not per chest, so rates are not LUNA16's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from components.core.chain.candidate_classifier import DEFAULT, Detector
from components.core.chain.ct_volume import CtVolume, read_volume
from components.core.chain.findings import find as located
from components.core.dice import dice
from components.core.froc_scans import Scan, froc, match
from components.core.metrics import auc_interval
from components.core.phantoms.chest_ct import KNOWN, PHANTOM_VERSION, generate, simulate
from components.core.pseudonym import load_pseudonymiser
from pipelines import catalog
from pipelines.lidc_reference import Nodule, reference

SEED, PATIENTS = 901, 90
MISSED = -1.0  # probability that stands for "not found" in the AUC end to end


def main(folder: Path) -> dict[str, Any]:
    """Make what is not there, judge, print."""
    from serving.nodules import opened, queries

    began = time.monotonic()
    os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
    os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
    spec = catalog.load("lung-nodule")
    model = opened(_package(folder), allow_synthetic=True)
    chooser = Detector.read(DEFAULT)
    pseudonymiser = load_pseudonymiser()[0]
    generate(folder / "judged", patients=PATIENTS, seed=SEED, workers=1)
    scans: list[Scan] = []
    overlaps: dict[str, list[float]] = {"readers": [], "truth": []}
    rows: list[tuple[int, float, bool, int]] = []  # label, probability, found above the threshold, scan
    shown, spent = 0, []
    for number, patient in enumerate(sorted(p for p in (folder / "judged").iterdir() if p.is_dir())):
        volume = read_volume(patient, spec=spec, pseudonymiser=pseudonymiser)
        known = reference(patient, volume, pseudonymiser)
        started = time.monotonic()
        found, _ = located(volume, chooser, lowest=0.0)
        spent.append(time.monotonic() - started)
        scan = match(
            [f.position_mm for f in found], [f.detection for f in found], [n.centre_mm for n in known.nodules], [n.radius_mm for n in known.nodules],
            known.open_mm, known.open_radii_mm,
        )  # fmt: skip
        scans.append(scan)
        shown += int((scan.alarms >= chooser.threshold).sum())
        hit = [found[k] if k >= 0 else None for k in scan.best]
        samples = queries(volume, [f for f in hit if f is not None], spec)
        answers = iter(model.answer(samples) if samples else [])
        truth = simulate(seed=SEED, unseen=False, keys=KNOWN, number=number)
        for nodule, finding in zip(known.nodules, hit, strict=True):
            answer = next(answers) if finding is not None else None
            above = finding is not None and finding.detection >= chooser.threshold
            if finding is not None and above:
                own = _whole(finding.region.corner, finding.region.mask, volume)
                overlaps["readers"].append(dice(own, _whole(nodule.corner, nodule.mask, volume)))
                overlaps["truth"].append(dice(own, _drawn(truth, volume, nodule)))
            if nodule.label is not None:
                p = answer["probabilities"].get("malignant", MISSED) if answer is not None and above else MISSED
                rows.append((nodule.label, p, above, number))
    label, p, above, group = (np.array(v) for v in zip(*rows, strict=True))
    curve = froc(scans)
    hits = np.concatenate([s.hits for s in scans]) >= chooser.threshold
    found_only = auc_interval(label[above], p[above], group[above])
    result: dict[str, Any] = {
        "row": "L1 chain",
        "data": f"phantom chest-ct version {PHANTOM_VERSION} (synthetic), seed {SEED}: {len(scans)} series, {len(hits)} nodules of 3 readers or more",
        "metric": "mean sensitivity at 1/8 to 8 false alarms a series (FROC)",
        "families": {"chain": curve["mean"].to_dict()},
        "froc": {name: estimate.to_dict() for name, estimate in curve.items() if name != "mean"},
        "at_threshold": {"sensitivity": float(hits.mean()), "false alarms a series": shown / len(scans), "threshold": chooser.threshold},
        "dice": {name: {"mean": float(np.mean(v)), "median": float(np.median(v)), "n": len(v)} for name, v in overlaps.items()},
        "auc_of_found": found_only.to_dict(),
        "auc_end_to_end": auc_interval(label, p, group).to_dict(),
        "chain_seconds_a_series": {"mean": float(np.mean(spent)), "highest": float(np.max(spent))},
        "notes": [
            "slabs of 20 mm, about 0.4 litres of lung: false alarms are per slab",
            "Dice over found nodules: against what half of a nodule's readers outlined, and against what was drawn",
            "end to end a nodule that is not found counts as less malignant than any other",
            "detector fitted on seed 501, diagnosing model on seed 20161, judged on neither",
        ],
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))
    return result


def _package(folder: Path) -> Path:
    """The lung-nodule package of the pipeline on the spec's own collection."""
    from components.core import registry
    from components.core.errors import DxflowError
    from pipelines.models import fetch
    from pipelines.run import Options, run

    try:
        registry.find("synthetic/lung-nodule", alias="candidate")
    except DxflowError:
        spec = catalog.load("lung-nodule")
        assert spec.phantom is not None
        generate(folder / "trained", patients=spec.phantom.patients, seed=spec.phantom.seed, workers=1)
        run(spec, Options(source=str(folder / "trained")))
    return fetch("lung-nodule", allow_synthetic=True)


def _whole(corner: tuple[int, int, int], mask: np.ndarray, volume: CtVolume) -> np.ndarray:
    out = np.zeros(volume.hu.shape, dtype=bool)
    out[tuple(slice(c, c + n) for c, n in zip(corner, mask.shape, strict=True))] = mask
    return out


def _drawn(truth: Any, volume: CtVolume, nodule: Nodule) -> np.ndarray:
    """The voxels inside the surface of the drawn nodule that lies nearest to the readers' one."""
    origin = np.array(volume.origin_mm)
    place = (np.array(nodule.centre_mm) - origin)[::-1]  # z, y, x
    drawn = min(truth.found, key=lambda n: float(np.linalg.norm(n.centre_mm - place)))
    box = truth.grid.box(drawn.centre_mm, drawn.extent_mm)
    out = np.zeros(volume.hu.shape, dtype=bool)
    out[box] = drawn.depth(truth.grid.points(box, drawn.centre_mm, 0.0)) < 1
    return out


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
