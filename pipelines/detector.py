"""Fit the lung chain's detector: which candidates are nodules.

    python -m pipelines.detector --source FOLDER --out FILE

FOLDER holds one subfolder for each patient, with a CT series and its readers' marks in the XML of LIDC-IDRI: a real collection, or the
synthetic one that `dxflow phantom lung-nodule` writes. Four patients of five are fitted on; on the others the threshold is chosen: the lowest
with at most one false alarm a series. The file is `components/core/chain/detector.json`, or what `dxflow find --detector` takes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from components.core.atomic import write_text
from components.core.chain.candidate_classifier import NAMES, Detector, fit
from components.core.chain.ct_volume import CtVolume, read_volume
from components.core.chain.findings import Finding, candidates
from components.core.errors import DataError, DxflowError
from components.core.froc_scans import match
from components.core.pseudonym import Pseudonymiser, load_pseudonymiser
from components.core.spec import DiseaseSpec
from pipelines import catalog
from pipelines.lidc_reference import Reference, reference

FALSE_ALARMS = 1.0
HELD_OUT = 5  # every fifth patient


@dataclass(frozen=True)
class Marked:
    """One series' candidates: figures, whether each lies on a nodule, whether it counts at all."""

    x: NDArray[np.float64]
    nodule: NDArray[np.bool_]
    counts: NDArray[np.bool_]


def patients(source: Path) -> list[Path]:
    """The folders of a collection, one for each patient, sorted."""
    found = sorted(p for p in Path(source).iterdir() if p.is_dir()) if Path(source).is_dir() else []
    if not found:
        raise DataError("no patients", where=str(source), allowed="one folder for each, with a CT series and its marks")
    return found


def marked(places: list[Finding], known: Reference) -> Marked:
    """Which candidates lie on a nodule of the reference, by the rule of detection; those on open findings do not count."""
    at = np.array([f.position_mm for f in places]).reshape(-1, 3)
    order = np.arange(len(places), dtype=float)
    on = np.zeros(len(places), dtype=bool)
    for n in known.nodules:
        on |= np.linalg.norm(at - n.centre_mm, axis=1) <= n.radius_mm
    lesions, radii = [n.centre_mm for n in known.nodules], [n.radius_mm for n in known.nodules]
    scan = match(at, order, lesions, radii, known.open_mm, known.open_radii_mm)
    free = np.isin(order, scan.alarms)
    return Marked(np.array([f.figures for f in places]).reshape(-1, len(NAMES)), on, on | free)


def learn(source: Path, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> tuple[Detector, dict[str, float]]:
    """Fit on a collection; the detector, and what it reaches on the held-out fifth."""
    parts: list[tuple[Marked, bool]] = []
    synthetic = False
    for number, folder in enumerate(patients(source)):
        volume: CtVolume = read_volume(folder, spec=spec, pseudonymiser=pseudonymiser)
        places, _ = candidates(volume)
        parts.append((marked(places, reference(folder, volume, pseudonymiser)), number % HELD_OUT == HELD_OUT - 1))
        synthetic |= volume.synthetic
        if (number + 1) % 20 == 0:
            print(f"{number + 1} series", file=sys.stderr, flush=True)
    train = [p for p, held in parts if not held]
    x, y = np.concatenate([p.x[p.counts] for p in train]), np.concatenate([p.nodule[p.counts] for p in train])
    words = f"{len(train)} series, {int(y.sum())} candidates on nodules of {len(y)}; {'synthetic' if synthetic else 'real'}"
    made = fit(x, y, threshold=0.5, made_from=words, synthetic=synthetic)
    held = [p for p, is_held in parts if is_held]
    alarms = np.sort(np.concatenate([made.probabilities(p.x[p.counts & ~p.nodule]) for p in held]))[::-1]
    hits = np.concatenate([made.probabilities(p.x[p.nodule]) for p in held])
    allowed = int(FALSE_ALARMS * len(held))
    threshold = float(f"{np.nextafter(alarms[allowed], 1) if allowed < len(alarms) else 0.5:.6g}")
    facts = {"held-out series": len(held), "candidates on nodules above the threshold": float((hits >= threshold).mean()), "threshold": threshold}
    return replace(made, threshold=threshold), facts


@click.command()
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(source: Path, out: Path) -> None:
    """Fit the detector of the lung chain on marked CT series."""
    try:
        made, facts = learn(source, catalog.load("lung-nodule"), load_pseudonymiser()[0])
        write_text(out, made.to_json())
    except DxflowError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps({"made_from": made.made_from, **facts}))


if __name__ == "__main__":
    main()
