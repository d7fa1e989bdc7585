"""Changes of pixels on one of eight devices, in every modality: is it found, on the right device, and is the right cause named first?

The samples are those of the phantoms (synthetic) and, where the data are at hand, of HAM10000 and Daphnet (real). Eight devices see them, each with
machine settings of its own that neither the phantoms nor the simulated causes use. Patients of the reference never come in a window. A change is
tried at three strengths, none of which the causes were simulated at.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import acquisition_changes, image_quality
from components.core.dataset import Dataset
from components.core.phantoms import generator
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from components.monitor.causes import Signatures
from components.monitor.detect import Detector, Judged
from components.monitor.reference import Reference
from components.monitor.sketch import hashes

ROOT = Path(__file__).parents[3]
DISEASES = ROOT / "pipelines" / "diseases"
DATA = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data")
PHANTOMS = {
    "CT": ("lung-nodule", 400), "fundus": ("retinopathy-screening", 300), "histology": ("breast-metastasis", 140), "MRI": ("alzheimer-smri", 300),
    "skin": ("skin-lesion", 400), "sensor": ("parkinson-fog", 30),
}  # fmt: skip
REAL = {"HAM10000 (real)": ("skin-ham10000", "skin-ham10000"), "Daphnet (real)": ("parkinson-fog", "parkinson-daphnet")}
STRENGTHS = (0.35, 0.6, 0.9)
DEVICES, POOL, REFERENCE, WINDOW, LABELS_LEAST = 8, 1600, 250, 100, 20
QUIET_WINDOWS, SEED = 40, 424242
Floats = NDArray[np.float32]
Figures = dict[str, NDArray[Any]]


@dataclass
class World:
    """Figures of eight devices: `known` of the reference's patients, `held` of others, `moved` of those after a change of the first device."""

    spec: DiseaseSpec
    label: NDArray[np.int64]
    group: NDArray[np.object_]
    own: NDArray[np.int64]
    held: NDArray[np.int64]
    figures: list[Figures]
    moved: dict[tuple[str, float], Figures]
    signatures: Signatures


def run() -> list[dict[str, Any]]:
    rows = []
    for name, (disease, patients) in PHANTOMS.items():
        rows.append(row(f"{name} phantom", world(disease, patients=patients)))
        print(rows[-1], flush=True)
    for name, (disease, folder) in REAL.items():
        if (DATA / folder).exists():
            rows.append(row(name, world(disease, source=DATA / folder)))
            print(rows[-1], flush=True)
    return rows


def world(disease: str, *, patients: int = 0, source: Path | None = None, changing: bool = True) -> World:
    """Eight devices that look at one disease's samples; `changing`: also after each change of the first one."""
    spec = DiseaseSpec.from_toml(DISEASES / f"{disease}.toml")
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as made, redirect_stdout(StringIO()):
        folder = Path(made)
        os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
        os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
        if source is None:
            assert spec.phantom is not None
            generator(spec.phantom.generator)(folder / "source", patients=patients, seed=SEED, unseen=False)
        ingest(spec, str(source or folder / "source"), dataset=folder / "dataset", features=folder / "features", workers=1)
        data = Dataset(folder / "dataset", expect=spec)
        collected = np.flatnonzero(~data.manifest["split"].str.startswith("external"))
        chosen = np.sort(rng.permutation(collected)[:POOL])
        x = data.read(chosen).astype(np.float32)
        label = np.isin(data.manifest["label"].fillna(-1).to_numpy(np.int64)[chosen], spec.positive_indices or (1,)).astype(np.int64)
        group = data.manifest["group_id"].to_numpy(object)[chosen]
    side = rng.random(len(np.unique(group)))[np.unique(group, return_inverse=True)[1]] < 0.45
    own, held = np.flatnonzero(side), np.flatnonzero(~side)
    settings = [setting(spec, rng) for _ in range(DEVICES)]
    figures, first = [], x
    for k, apply in enumerate(settings):
        seen = apply(x, np.random.default_rng([SEED, k]))
        first = seen if k == 0 else first
        figures.append(measured(seen, spec, 0.5 + 0.05 * k))
    moved = {}
    for change, strength in changes(spec) if changing else ():
        y, tag = altered(change, first, strength, np.random.default_rng([SEED, len(moved)]), spec)
        moved[change, strength] = measured(y, spec, 0.5 * tag)
    known = rng.permutation(own)[:120]
    return World(
        spec, label, group, own, held, figures, moved, Signatures(acquisition_changes.simulated(x[known] if changing else x[known[:2]], spec))
    )


def setting(spec: DiseaseSpec, rng: np.random.Generator) -> Callable[[Floats, np.random.Generator], Floats]:
    """A device's own gain, offset, noise and blur."""
    gain, offset, noise, blur = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2), rng.uniform(0, 0.15), rng.uniform(0, 0.5)

    def apply(x: Floats, own: np.random.Generator) -> Floats:
        for name, strength in (("gain", gain), ("offset", offset), ("noise", noise)):
            x = acquisition_changes.changed(name, x, strength, own, spec).astype(np.float32)
        if blur > 0.25:
            from scipy.ndimage import gaussian_filter

            axes = acquisition_changes.SPATIAL_AXES[spec.input.layout]
            x = gaussian_filter(x, [0] * (x.ndim - axes) + [blur] * axes, mode="nearest").astype(np.float32)
        return x

    return apply


def changes(spec: DiseaseSpec) -> Iterator[tuple[str, float]]:
    names = [n for n in acquisition_changes.possible(spec)]
    for name in (*names, "spacing", "compound"):
        for n, strength in enumerate(STRENGTHS):
            yield name, -strength if name in acquisition_changes.SIGNED and n == 1 else strength


def altered(name: str, x: Floats, strength: float, rng: np.random.Generator, spec: DiseaseSpec) -> tuple[Floats, float]:
    """Samples after the change, and the factor of their spacing's tag."""
    if name == "spacing":
        return spaced(x, 1 + 0.3 * strength, spec), 1 + 0.3 * strength
    if name == "compound":
        return acquisition_changes.changed("noise", acquisition_changes.changed("gain", x, strength, rng, spec), strength, rng, spec).astype(
            np.float32
        ), 1.0
    return acquisition_changes.changed(name, x, strength, rng, spec).astype(np.float32), 1.0


def spaced(x: Floats, factor: float, spec: DiseaseSpec) -> Floats:
    """As a coarser grid shows it, on the old one: what is fine is lost."""
    from scipy.ndimage import zoom

    axes = acquisition_changes.SPATIAL_AXES[spec.input.layout]
    whole = [1.0] * (x.ndim - axes)
    coarse = np.asarray(zoom(x, whole + [1 / factor] * axes, order=1))
    fine = zoom(coarse, [b / a for a, b in zip(coarse.shape, x.shape, strict=True)], order=1)
    return np.asarray(fine, dtype=np.float32)


def measured(x: Floats, spec: DiseaseSpec, spacing: float) -> Figures:
    low, high = spec.input.range
    parts = [image_quality.figures(np.clip(x[k : k + 256], low, high), spec) for k in range(0, len(x), 256)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} | {"acq_pixel_mm": np.full(len(x), spacing)}


# ---- what the monitor makes of it ------------------------------------------------------------------------------------------------------


class Watching:
    """The monitor of a world, and its windows."""

    def __init__(self, w: World, seed: int, *, by_label: bool = False) -> None:
        self.w, self.rng, self.by_label = w, np.random.default_rng([SEED, seed]), by_label
        own = [self.rng.permutation(w.own)[:REFERENCE] for _ in range(DEVICES)]
        columns = {name: np.concatenate([f[name][rows] for f, rows in zip(w.figures, own, strict=True)]) for name in w.figures[0]}
        devices = np.repeat([f"d{k}" for k in range(DEVICES)], [len(rows) for rows in own]).tolist()
        # the same patient at two devices is two events of one person for the sketch, but the devices' references stand alone
        groups = [f"{d}-{g}" for d, g in zip(devices, w.group[np.concatenate(own)].tolist(), strict=True)]
        strata = [str(v) for v in w.label[np.concatenate(own)].tolist()] if by_label else None
        self.reference = Reference.of(columns, devices, groups, strata)
        self.detector = Detector(self.reference)

    def judge(self, change: tuple[str, float] | None = None, mix: float | None = None) -> dict[str, Judged]:
        """One window of all devices; `mix`: share of ill people at the first device."""
        window = {}
        for k in range(DEVICES):
            rows = self._rows(mix if k == 0 else None)
            figures = self.w.moved[change] if change is not None and k == 0 else self.w.figures[k]
            sketch = self.detector.sketch(f"d{k}")
            strata = np.array([self.reference.strata.index(str(v)) for v in self.w.label[rows].tolist()]) if self.by_label else None
            part = {name: values[rows] for name, values in figures.items()}
            sketch.add(self.reference.baseline(f"d{k}")[0].places, part, hashes(self.w.group[rows].tolist()), strata)
            window[f"d{k}"] = sketch
        return self.detector.judge(window)

    def _rows(self, mix: float | None) -> NDArray[np.int64]:
        held = self.w.held
        n = min(WINDOW, len(held) // 2)
        if mix is None:
            return self.rng.choice(held, n, replace=False)
        ill, well = held[self.w.label[held] == 1], held[self.w.label[held] == 0]
        a = min(len(ill), max(LABELS_LEAST, round(mix * n)))
        return np.concatenate([self.rng.choice(ill, a, replace=False), self.rng.choice(well, min(len(well), n - a), replace=False)])


def row(name: str, w: World) -> dict[str, Any]:
    false = windows = 0
    unjudged: set[str] = set()
    quiet = Watching(w, 0)
    for n in range(QUIET_WINDOWS + 2):
        judged = quiet.judge()
        if n >= 2:
            windows += DEVICES
            false += sum(bool(j.alarm) for j in judged.values())
            unjudged |= {j.reason for j in judged.values() if j.reason}
    found: list[tuple[str, float]] = []
    right = cause = named = others = 0
    delay: list[int] = []
    wrong: list[str] = []
    for seed, change in enumerate(w.moved, 1):
        watching = Watching(w, seed)
        for _ in range(2):
            watching.judge()
        for n in (1, 2, 3):
            judged = watching.judge(change)
            told = {device: j for device, j in judged.items() if j.alarm}
            others += len(set(told) - {"d0"})
            if "d0" in told:
                found.append(change)
                delay.append(n)
                right += min(told, key=lambda d: told[d].alarm[0].lasting) == "d0"
                if change[0] != "compound":
                    named += 1
                    said = first_cause(watching, told["d0"], w)
                    cause += said == change[0]
                    if said != change[0]:
                        wrong.append(f"{change[0]} {change[1]:+.2f} as {said}")
                break
    weak = sorted({c for c in w.moved if c not in found})
    return {
        "data": name,
        "samples, of them held out": f"{len(w.label)}, {len(w.held)}",
        "false alarms": f"{false} of {windows}",
        "cannot judge": next(iter(sorted(unjudged)), "-"),
        "changes found in 3 windows": f"{len(found)} of {len(w.moved)}",
        "not found": ", ".join(f"{c} {s:+.2f}" for c, s in weak) or "-",
        "mean delay (events)": round(float(np.mean(delay)) * WINDOW) if delay else "-",
        "right device first": f"{right} of {len(found)}",
        "right cause first": f"{cause} of {named}",
        "wrong": ", ".join(wrong) or "-",
        "alarms of others": others,
    }


def first_cause(watching: Watching, judged: Judged, w: World) -> str:
    """What the operator reads first: a tag that changed, else the simulated change that explains most."""
    if any(c.feature == "acq_pixel_mm" for c in judged.alarm):
        return "spacing"
    causes = w.signatures.name(judged.shifts, watching.reference.baseline("d0")[0], judged.patients)
    return causes[0].name if causes else "unknown"
