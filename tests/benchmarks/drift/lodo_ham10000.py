"""The judgement on HAM10000 (real; 8 x 8 grey pixels): each of the four sources of photographs is left out once, melanoma against the rest.

What is used for a source is chosen without it: each candidate is judged on the three others, each left out in turn together with the source, and
the best mean of AUC within the one left out is taken, nothing at all being a candidate. The gain is the paired difference of AUC within the unseen
source, averaged over the four; its interval draws lesions again within each source, the same ones for before and after.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
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
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.benchmarks.drift.lodo import DISEASES, variant
from tests.benchmarks.drift.lodo_phantoms import words
from tests.benchmarks.drift.pixels import DATA

DISEASE = "skin-ham10000"
CANDIDATES: tuple[dict[str, Any], ...] = (
    {},
    {"per_sample": ["grey-world"]},
    {"per_sample": ["log-contrast"]},
    {"per_sample": ["nyul"]},
    {"method": "device"},
    {"options": {"acquisition_jitter": 0.3}},
    {"options": {"device_balanced": True}},
)
TUNING_SEED, SEEDS, SPLIT_SEED, BOOTSTRAPS = 11, (31, 32, 33), 5, 2000


@dataclass
class Photographs:
    """All of them, unscaled; `part` is train (70 % of the lesions), val or test, the same for every training."""

    raw: NDArray[Any]
    y: NDArray[np.int64]
    positive: NDArray[np.bool_]
    lesion: NDArray[np.object_]
    device: NDArray[np.str_]
    part: NDArray[np.str_]
    profiles: dict[str, DeviceProfile]

    @classmethod
    def read(cls, spec: DiseaseSpec, folder: Path) -> Photographs:
        if not (folder / "dataset" / "dataset.json").exists():
            with redirect_stdout(StringIO()):  # events
                ingest(spec, str(DATA / DISEASE), dataset=folder / "dataset", features=folder / "features", workers=1)
        data = Dataset(folder / "dataset", expect=spec)
        m = data.manifest
        lesion, device = m["group_id"].to_numpy(object), m["device_key"].to_numpy().astype(str)
        names = np.unique(lesion.astype(str))
        draw = dict(zip(names, np.random.default_rng(SPLIT_SEED).random(len(names)), strict=True))
        share = np.array([draw[str(one)] for one in lesion])
        raw, profiles = data.read(np.arange(len(m))), {}
        for name in np.unique(device):
            accumulator = ProfileAccumulator(spec)
            accumulator.add(raw[device == name])
            profiles[str(name)] = accumulator.finish(str(name), "")
        y = m["label"].to_numpy(np.int64)
        part = np.select([share < 0.7, share < 0.8], ["train", "val"], "test").astype(str)
        return cls(raw, y, np.isin(y, spec.positive_indices), lesion, device, part, profiles)


def scores(spec: DiseaseSpec, p: Photographs, out: set[str], seed: int) -> NDArray[np.float64]:
    """(n,) log odds of melanoma for every photograph, by a model that saw no device of `out`."""
    own = [p.profiles[d] for d in p.device] if spec.normalise.method == "device" else None
    x = normalise(p.raw, spec, own, pooled([v for name, v in p.profiles.items() if name not in out]))
    seen = ~np.isin(p.device, sorted(out))

    def samples(part: str) -> Samples:
        rows = np.flatnonzero(seen & (p.part == part))
        return Samples(batch=lambda chosen: x[rows[chosen]], labels=p.y[rows], groups=p.lesion[rows], devices=p.device[rows].astype(object))

    estimator = build(spec)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(samples("train"), samples("val"), seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    return np.asarray(log_odds(estimator.scores(x), spec.positive_indices), dtype=np.float64)


def run() -> dict[str, Any]:
    """Tables `ham10000` and `ham10000_sources`; empty where the data are not at hand."""
    if not (DATA / DISEASE).exists():
        return {}
    kept = os.environ.get("DXFLOW_LODO")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(kept or scratch) / DISEASE
        os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
        os.environ.setdefault("DXFLOW_KEY", "benchmarks-of-published-data")
        spec = DiseaseSpec.from_toml(DISEASES / f"{DISEASE}.toml")
        p = Photographs.read(spec, folder)
        specs = [variant(spec, one, plain=True) for one in CANDIDATES]
        return judged(p, specs, chosen(p, specs, folder / "chosen.json"))


def chosen(p: Photographs, specs: list[DiseaseSpec], kept: Path) -> dict[str, int]:
    """Number of the candidate for each source, from trainings that saw neither it nor its answers."""
    names = sorted(p.profiles)
    found: dict[str, list[float]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for n, spec in enumerate(specs):
        for pair in combinations(names, 2):
            if len(found.get("|".join(pair), [])) > 2 * n:
                continue
            score = scores(spec, p, set(pair), TUNING_SEED)
            found.setdefault("|".join(pair), []).extend(float(auc(p.positive[p.device == d], score[p.device == d])) for d in pair)
            kept.write_text(json.dumps(found), encoding="utf-8")
        print(f"tuning {words(CANDIDATES[n])}: {np.mean([v[2 * n : 2 * n + 2] for v in found.values()]):.3f}", flush=True)
    best = {}
    for name in names:
        of = np.zeros(len(specs))
        for key, values in found.items():
            pair = key.split("|")
            if name in pair:
                of += np.array(values[1 - pair.index(name) :: 2])
        best[name] = int(of.argmax())
    return best


def judged(p: Photographs, specs: list[DiseaseSpec], best: dict[str, int]) -> dict[str, Any]:
    names = sorted(p.profiles)
    score: dict[str, dict[str, NDArray[np.float64]]] = {}
    seen: dict[str, list[float]] = {"before": [], "after": []}
    for name in names:
        for what, n in (("before", 0), ("after", best[name])):
            if what == "after" and n == 0:
                score[name]["after"], added = score[name]["before"], seen["before"][-1]
                seen["after"].append(added)
                continue
            made = np.mean([scores(specs[n], p, {name}, seed) for seed in SEEDS], axis=0)
            score.setdefault(name, {})[what] = made
            within = [(p.device == d) & (p.part == "test") for d in names if d != name]
            seen[what].append(float(np.mean([auc(p.positive[rows], made[rows]) for rows in within if p.positive[rows].any()])))
            print(f"without source {names.index(name) + 1} {what}", flush=True)
    rows = []
    for name in names:
        own = p.device == name
        of = {what: float(auc(p.positive[own], made[own])) for what, made in score[name].items()}
        rows.append({
            "source": names.index(name) + 1, "photographs": int(own.sum()), "melanomas": int(p.positive[own].sum()),
            "used": words(CANDIDATES[best[name]]),
            "unseen before": f"{of['before']:.3f}", "unseen after": f"{of['after']:.3f}",
            "seen before": f"{seen['before'][names.index(name)]:.3f}", "seen after": f"{seen['after'][names.index(name)]:.3f}",
        })  # fmt: skip
    gain, draws = gained(p, score, None), np.array([gained(p, score, np.random.default_rng([9, k])) for k in range(BOOTSTRAPS)])
    low, high = np.percentile(draws, (2.5, 97.5))
    overall = {
        "gain in AUC within the unseen source": f"{gain:+.4f}", "95 % interval over lesions": f"{low:+.4f} to {high:+.4f}",
        "bound": "lower end above 0", "holds": "yes" if low > 0 else "no",
    }  # fmt: skip
    return {"ham10000": [overall], "ham10000_sources": rows}


def gained(p: Photographs, score: dict[str, dict[str, NDArray[np.float64]]], rng: np.random.Generator | None) -> float:
    """Mean over the sources of after minus before; with a generator, of lesions drawn again."""
    out = []
    for name, both in score.items():
        rows = np.flatnonzero(p.device == name)
        if rng is not None:
            lesions, of = np.unique(p.lesion[rows].astype(str), return_inverse=True)
            rows = np.repeat(rows, np.bincount(rng.integers(len(lesions), size=len(lesions)), minlength=len(lesions))[of])
        if 0 < p.positive[rows].sum() < len(rows):
            out.append(auc(p.positive[rows], both["after"][rows]) - auc(p.positive[rows], both["before"][rows]))
    return float(np.mean(out))
