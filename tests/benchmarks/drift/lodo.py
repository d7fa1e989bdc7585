"""What an unseen device costs, and how much of it harmonisation and training options give back: leave one device out, on a phantom.

    python -m tests.benchmarks.drift.lodo DISEASE [--seeds 1,2,3] [--left-out unseen|all] [--folder F] [--tuning]
        [--before '{"method": "range"}'] [--after '{"per_sample": [..], "options": {..}}']

A training sees all devices but one. `seen` is the mean over the devices in training of the AUC within each one's test samples, `unseen` the AUC
within the device left out, `gap` the difference. The devices left out are the phantom's hard unseen one, which has a collection of its own, and,
with `all`, each known one in turn. `before` is the disease's spec without anything that this is about; `after` is the spec as it stands.

Options were chosen with `--tuning`: other seeds, and an unseen device of other parameters (`TUNING`), so that what is judged was not tuned on.
Answers are kept in the folder: asked again, nothing is trained twice.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import json
import os
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import Dataset
from components.core.devices import DeviceProfile, ProfileAccumulator, normalise, pooled
from components.core.log_odds import log_odds
from components.core.metrics import auc
from components.core.models import build
from components.core.models.samples import Samples
from components.core.phantoms import fundus_camera, generator, inertial_units, skin_lesion_camera
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest

DISEASES = Path(__file__).parents[3] / "pipelines" / "diseases"
UNSEEN_SEED, UNSEEN_TUNING_SEED = 7, 1007
UNSEEN = "unseen"
ABOUT = ("device_balanced", "acquisition_jitter")
TUNING: dict[str, tuple[str, dict[str, Any]]] = {
    "skin-lesion": (
        "components.core.phantoms.skin_lesion",
        {"UNSEEN": skin_lesion_camera.Camera("SIM-TUNING", 90, 0.94, 0.62, 0.76, 0.42, 0.17, 0.9, True, 2.2, 0.026, 0.034, quality=62)},
    ),
    "retinopathy-screening": (
        "components.core.phantoms.fundus",
        {"UNSEEN": fundus_camera.Camera("SIM-TUNING", 104, 0.85, 0.95, (1.25, 0.80, 0.50), 0.82, 0.42, -0.30, 0.08, 0.019, 0.030, quality=65)},
    ),
    "parkinson-fog": (
        "components.core.phantoms.inertial",
        {"UNITS": (*inertial_units.UNITS, inertial_units.Unit("syn-tuning", 80, 0.7, 50, 60, 3, 20, 15, 45)), "UNSEEN": ("syn-tuning",)},
    ),
}
Floats = NDArray[np.float32]


class Collection:
    """One ingested collection, unscaled."""

    def __init__(self, spec: DiseaseSpec, folder: Path, *, patients: int, seed: int, unseen: bool = False) -> None:
        raw = json.loads(spec.to_json()) | {"external": [e for e in json.loads(spec.to_json())["external"] if not unseen]}
        spec = DiseaseSpec.from_json(json.dumps(raw))
        assert spec.phantom is not None
        if not (folder / "dataset" / "dataset.json").exists():
            with redirect_stdout(StringIO()):  # events
                make = generator(spec.phantom.generator)
                here = {"workers": 1} if "workers" in inspect.signature(make).parameters else {}  # so that replaced devices are seen
                make(folder / "source", patients=patients, seed=seed, unseen=unseen, **here)
                ingest(spec, str(folder / "source"), dataset=folder / "dataset", features=folder / "features", workers=1)
        data = Dataset(folder / "dataset", expect=spec)
        keep = data.manifest["split"].isin(["train", "val", "test"]).to_numpy()
        m = data.manifest[keep]
        self.raw = data.read(np.flatnonzero(keep))
        self.y = m["label"].to_numpy(np.int64)
        self.positive = np.isin(self.y, spec.positive_indices)
        self.groups = m["group_id"].to_numpy(object)
        self.device = m["device_key"].to_numpy(object)
        self.split = m["split"].to_numpy(object)

    def profiles(self, spec: DiseaseSpec) -> dict[str, DeviceProfile]:
        """Of each device's train and val samples, as ingest measures them; of all its samples where it has no others."""
        found = {}
        for device in np.unique(self.device.astype(str)):
            accumulator = ProfileAccumulator(spec)
            own = self.device == device
            known = own & (self.split != "test")
            accumulator.add(self.raw[known if known.any() else own])
            found[device] = accumulator.finish(device, "")
        return found


def variant(spec: DiseaseSpec, asked: dict[str, Any] | None, *, plain: bool) -> DiseaseSpec:
    """The spec as it stands, or `plain`: without harmonisation and training options; then with what is asked for."""
    raw = json.loads(spec.to_json())
    family = raw["families"][spec.default_family]
    asked = dict(asked or {})
    if plain:
        raw["normalise"] |= {"per_sample": [], "method": "range"}
        family["options"] = {name: value for name, value in family["options"].items() if name not in ABOUT}
    family["options"] |= asked.pop("options", {})
    for name in ("epochs", "lr", "batch"):
        if name in asked:
            family[name] = asked.pop(name)
    raw["normalise"] |= asked
    raw["split"] |= {"folds": 1, "given": raw["split"]["given"]}
    raw["stages"] = []
    return DiseaseSpec.from_json(json.dumps(raw))


def trained(spec: DiseaseSpec, c: Collection, unseen: Collection, left_out: str, seed: int) -> dict[str, Any]:
    """AUC within each device of a model that did not see `left_out`, a device's key or `UNSEEN`."""
    profiles = c.profiles(spec) if spec.normalise.method == "device" else {}
    others = [p for name, p in profiles.items() if name != left_out]
    reference = pooled(others) if others else None
    x = normalise(c.raw, spec, [profiles.get(d) for d in c.device], reference)

    def part(name: str) -> Samples:
        rows = np.flatnonzero((c.split == name) & (c.device != left_out))
        return Samples(batch=lambda chosen: x[rows[chosen]], labels=c.y[rows], groups=c.groups[rows], devices=c.device[rows])

    estimator = build(spec)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(part("train"), part("val"), seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    test = np.flatnonzero(c.split == "test")
    within = auc_within(c.positive[test], log_odds(estimator.scores(x[test]), spec.positive_indices), c.device[test])
    away = {left_out: within.pop(left_out, float("nan"))}
    if left_out == UNSEEN:
        known = unseen.profiles(spec) if profiles else {}
        z = normalise(unseen.raw, spec, [known.get(d) for d in unseen.device], reference)
        away = auc_within(unseen.positive, log_odds(estimator.scores(z), spec.positive_indices), unseen.device)
    return {"seen": float(np.mean(list(within.values()))), "unseen": float(np.mean(list(away.values()))), "within": within, "away": away}


def auc_within(positive: NDArray[np.bool_], score: NDArray[np.floating], device: NDArray[np.object_]) -> dict[str, float]:
    """AUC of each device that has both classes."""
    found = {}
    for name in np.unique(device.astype(str)):
        own = device == name
        if 0 < positive[own].sum() < own.sum():
            found[str(name)] = float(auc(positive[own], score[own]))
    return found


def main() -> None:
    """Prints one line per training and a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("disease")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--left-out", default=UNSEEN, choices=[UNSEEN, "all"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--patients", type=int)
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--before", type=json.loads)
    parser.add_argument("--after", type=json.loads)
    parser.add_argument("--only", choices=["before", "after"])
    a = parser.parse_args()
    folder = a.folder or Path(tempfile.mkdtemp(prefix="lodo-"))
    os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
    os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
    spec = DiseaseSpec.from_toml(DISEASES / f"{a.disease}.toml")
    assert spec.phantom is not None
    plain = variant(spec, a.before, plain=True)
    specs = {"before": plain, "after": variant(spec, a.after, plain=a.after is not None)}
    if a.tuning:
        module, names = TUNING[a.disease]
        vars(importlib.import_module(module)).update(names)
    patients = a.patients or spec.phantom.patients
    name = f"{a.disease}-{patients}"
    seed = UNSEEN_TUNING_SEED if a.tuning else UNSEEN_SEED
    unseen = Collection(plain, folder / f"{name}-unseen-{seed}", patients=patients // 2, seed=seed, unseen=True)
    rows: dict[str, list[dict[str, Any]]] = {what: [] for what in specs}
    for seed in (int(s) for s in a.seeds.split(",")):
        c = Collection(plain, folder / f"{name}-{seed}", patients=patients, seed=seed)
        away = [UNSEEN, *(np.unique(c.device.astype(str)) if a.left_out == "all" else ())]
        for what, one in specs.items():
            if a.only not in (None, what):
                continue
            for device in away:
                key = hashlib.sha256(f"{one.to_json()}/{seed}/{device}/{a.tuning}/{patients}".encode()).hexdigest()[:16]
                kept = folder / "answers" / f"{key}.json"
                if not kept.exists():
                    kept.parent.mkdir(exist_ok=True)
                    kept.write_text(json.dumps(trained(one, c, unseen, str(device), seed)), encoding="utf-8")
                found = json.loads(kept.read_text(encoding="utf-8")) | {"seed": seed, "device": str(device)}
                rows[what].append(found)
                print(f"{a.disease} {what} seed {seed} without {device}: seen {found['seen']:.3f}, unseen {found['unseen']:.3f}", flush=True)
    print("\n| phantom | left out | | seen | unseen | gap | n |\n|---|---|---|---|---|---|---|")
    for kind in (UNSEEN, "known"):
        gaps = {}
        for what, found in rows.items():
            chosen = [r for r in found if (r["device"] == UNSEEN) == (kind == UNSEEN) and np.isfinite(r["unseen"])]
            if chosen:
                seen, unknown = (float(np.mean([r[k] for r in chosen])) for k in ("seen", "unseen"))
                gaps[what] = seen - unknown
                print(f"| {a.disease} | {kind} | {what} | {seen:.3f} | {unknown:.3f} | {seen - unknown:.3f} | {len(chosen)} |")
        if len(gaps) == 2 and gaps["before"]:
            print(f"| {a.disease} | {kind} | closed | | | {1 - gaps['after'] / gaps['before']:.2f} of it | |")


if __name__ == "__main__":
    main()
