"""HAM10000 at 8 x 8 grey pixels: melanoma or not, judged within each of its four devices; five seeds, cross-validated by lesion.

Melanomas are 0.6 % to 20 % of a device's photographs and the device shows in the pixels, so a pooled AUC rewards knowing the device. The figure is
the mean over devices of the AUC among one device's photographs; the pooled one stands only beside the AUC of the device's label alone. Leave one
device out: trained on three, tested on the fourth. Networks learn all seven diagnoses and stop on a tenth of their training lesions. Both see the
photographs as the spec harmonises them.

What age, sex and site add is measured on the same answers: calibration and late fusion (`components/core/fusion.py`) are fitted on the lesions that a
network stopped on, and both the calibrated image model and the fused one answer the same photographs of test.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.core import metrics
from components.core.fusion import Fusion
from components.core.spec import DiseaseSpec

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2, 3, 4, 5)
FOLDS = 5
FAMILIES = ("residual", "plain")
DEVICES = ("rosendahl", "vidir_modern", "vidir_molemax", "vienna_dias")
REPLICATES = 500
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def main() -> None:
    """Print one JSON object."""
    folder = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "skin-ham10000"
    spec = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "skin-ham10000.toml")
    with tempfile.TemporaryDirectory() as made:
        dataset, names = _ingested(spec, folder, Path(made))
        _, labels, lesions, device = _loaded(spec, str(dataset))
        known = _told(spec, dataset)
        device = np.array([names[key] for key in device])
        melanoma = labels == spec.target.classes.index("melanoma")
        tests = [(seed, _folds(lesions, seed) == fold) for seed in SEEDS for fold in range(FOLDS)] + [(SEEDS[0], device == d) for d in DEVICES]
        jobs = [(str(dataset), family, seed, test) for family in FAMILIES for seed, test in tests]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            answers = dict(zip([(family, n) for family in FAMILIES for n in range(len(tests))], pool.map(_trained, jobs), strict=True))
    every = np.empty((3, len(FAMILIES), len(SEEDS), len(labels)))
    for f, family in enumerate(FAMILIES):
        for n in range(len(SEEDS) * FOLDS):
            every[:, f, n // FOLDS, tests[n][1]] = answers[family, n].scores
    pooled = dict(zip(FAMILIES, every[0], strict=True))

    index = metrics.group_index(lesions, len(lesions))
    assert index is not None
    spread = {family: metrics.bootstrap(index, _within(melanoma, pooled[family], device), replicates=REPLICATES) for family in FAMILIES}
    ones = np.ones((1, len(labels)), dtype=np.float32)
    value = {family: float(_within(melanoma, pooled[family], device)(ones)[0]) for family in FAMILIES}
    share = np.array([np.mean(melanoma[device == d]) for d in DEVICES])[[DEVICES.index(d) for d in device]]
    out = {family: {} for family in FAMILIES}
    for family in FAMILIES:
        for n, d in enumerate(DEVICES):
            of = device == d
            out[family][d] = _rounded(metrics.auc_interval(melanoma[of], answers[family, len(SEEDS) * FOLDS + n].scores[0], lesions[of]).to_dict())
    apart = spread["residual"] - spread["plain"]
    print(
        json.dumps(
            {
                "row": "S1",
                "data": "HAM10000, 10,015 photographs of 7,470 lesions from 4 devices, 8 x 8 grey pixels",
                "metric": f"melanoma AUC within a device, mean of 4 devices and {len(SEEDS)} seeds",
                "default": "residual",
                "families": {family: _figure(value[family], spread[family], len(labels)) for family in FAMILIES},
                "baseline": {"plain": _figure(value["plain"], spread["plain"], len(labels))},
                "paired": _figure(value["residual"] - value["plain"], apart, len(labels)),
                "chance": 0.5,
                "within_device": {
                    family: {
                        d: round(float(np.mean([metrics.auc(melanoma[device == d], s[device == d]) for s in pooled[family]])), 3) for d in DEVICES
                    }
                    for family in FAMILIES
                },
                "by_seed": {family: [round(float(_within(melanoma, s[None], device)(ones)[0]), 3) for s in pooled[family]] for family in FAMILIES},
                "pooled": {family: round(float(np.mean([metrics.auc(melanoma, s) for s in pooled[family]])), 3) for family in FAMILIES}
                | {"device's label alone": round(metrics.auc(melanoma, share), 3)},
                "leave_one_device_out": out,
                "covariates": {
                    **_added(melanoma, every[1:, FAMILIES.index("residual")], device, index),
                    "told": {name: f"{sum(name in one for one in known)} of {len(known)}" for name in spec.covariates},
                    "fitted": _fitted([answers["residual", n] for n in range(len(SEEDS) * FOLDS)]),
                    "difference on a device that neither training nor fusion saw": {
                        d: _apart(melanoma, answers["residual", len(SEEDS) * FOLDS + n], device == d, lesions) for n, d in enumerate(DEVICES)
                    },
                },
                "melanomas": {d: f"{int(melanoma[device == d].sum())} of {int((device == d).sum())}" for d in DEVICES},
                "notes": [
                    "a pooled AUC means little: the device's label alone, which shows in the pixels, reaches the figure beside it",
                    f"vidir_molemax has {int(melanoma[device == 'vidir_molemax'].sum())} melanomas: its figures are wide",
                    "leave one device out: one training for each device and family",
                    "covariates: residual network, calibrated, without and with age, sex and site, fused on its validation; paired, by lesion",
                ],
            }
        )
    )


def _ingested(spec: DiseaseSpec, source: Path, made: Path) -> tuple[Path, dict[str, str]]:
    """The dataset, and the devices' names by their keys."""
    from contextlib import redirect_stdout
    from io import StringIO

    from components.core.pseudonym import load_pseudonymiser
    from components.ingest.step import ingest

    os.environ.setdefault("DXFLOW_HOME", str(made / "home"))
    os.environ.setdefault("DXFLOW_KEY", "public-data-only")
    with redirect_stdout(StringIO()):
        ingest(spec, str(source), dataset=made / "dataset", features=made / "features", workers=1)
    pseudonymiser, _ = load_pseudonymiser()
    return made / "dataset", {pseudonymiser.id("device", name): name for name in DEVICES}


def _told(spec: DiseaseSpec, dataset: Path) -> list[dict[str, Any]]:
    """Covariates of each photograph, kept beside the dataset for the processes that train."""
    from components.core.dataset import Dataset
    from feature_store.covariates import told

    found = told(dataset.parent / "features", Dataset(dataset).manifest, spec.covariates)
    (dataset.parent / "told.json").write_text(json.dumps(found))
    return found


def _loaded(spec: DiseaseSpec, dataset: str) -> tuple[NDArray[np.float32], Rows, NDArray[np.object_], NDArray[np.object_]]:
    """Images as the spec brings them to the network, labels, lesions, device keys."""
    from components.core.dataset import Dataset
    from components.core.devices import normalise

    data = Dataset(dataset)
    m = data.manifest
    x = normalise(data.read(np.arange(len(data))), spec, None, None)
    return x, m["label"].to_numpy(np.int64), m["group_id"].to_numpy(object), m["device_key"].to_numpy(object)


def _folds(lesions: NDArray[np.object_], seed: int, folds: int = FOLDS) -> Rows:
    """A fold for each photograph; all of a lesion are in one."""
    ids, place = np.unique(lesions.astype(str), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(ids)) % folds)[place]


class Answers(NamedTuple):
    """`scores`: (3, n) melanoma's log-odds of the network as it is, calibrated, and fused."""

    scores: Floats
    fusion: Fusion


def _trained(job: tuple[str, str, int, NDArray[np.bool_]]) -> Answers:
    """Of the photographs of `test`, by a network that saw none of their lesions."""
    import torch

    from components.core import calibration, fusion
    from components.core.log_odds import log_odds
    from components.core.models import build
    from components.core.models.samples import Samples

    torch.set_num_threads(1)
    dataset, family, seed, test = job
    spec = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "skin-ham10000.toml")
    x, labels, lesions, _ = _loaded(spec, dataset)
    free = ~np.isin(lesions, np.unique(lesions[test].astype(str)))
    stop = _folds(lesions, 1000 + seed, 10) == 0

    def part(rows: Rows) -> Samples:
        return Samples(batch=lambda chosen: x[rows[chosen]], labels=labels[rows], groups=lesions[rows])

    estimator = build(spec, family)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(
            part(np.flatnonzero(free & ~stop)),
            part(np.flatnonzero(free & stop)),
            seed=seed,
            checkpoint=Path(scratch) / "checkpoint",
            on_epoch=lambda _: None,
        )
    known = json.loads((Path(dataset).parent / "told.json").read_text())
    held, asked = np.flatnonzero(free & stop), np.flatnonzero(test)
    scores, own = estimator.scores(x[asked]), estimator.scores(x[held])
    fitted = calibration.fit(labels[held], own)
    p, told = calibration.apply(fitted, own), [known[i] for i in held]
    shift = fusion.fit(labels[held], p, told, list(lesions[held]), classes=spec.target.classes, names=spec.covariates)
    image = calibration.apply(fitted, scores)
    both = [log_odds(np.log(np.maximum(q, 1e-300)), spec.positive_indices) for q in (image, shift.apply(image, [known[i] for i in asked]))]
    return Answers(np.stack([log_odds(scores, spec.positive_indices), *both]).astype(np.float64), shift)


def _added(melanoma: NDArray[np.bool_], scores: Floats, device: NDArray[Any], index: Rows) -> dict[str, Any]:
    """Mean AUC within a device without and with covariates, (2, seeds, n) log-odds, and the paired difference; by device the values alone."""
    names, ones = ("image alone", "with covariates"), np.ones((1, len(melanoma)), dtype=np.float32)
    parts = [_within(melanoma, one, device) for one in scores]
    values = [float(part(ones)[0]) for part in parts]
    spread = [metrics.bootstrap(index, part, replicates=REPLICATES) for part in parts]
    out: dict[str, Any] = {name: _figure(v, s, len(melanoma)) for name, v, s in zip(names, values, spread, strict=True)}
    out["difference"] = _figure(values[1] - values[0], spread[1] - spread[0], len(melanoma))
    means = {d: [np.mean([metrics.auc(melanoma[device == d], s[device == d]) for s in one]) for one in scores] for d in DEVICES}
    return out | {f"within {d}": f"{a:.3f} to {b:.3f}" for d, (a, b) in means.items()}


def _apart(melanoma: NDArray[np.bool_], answers: Answers, of: NDArray[np.bool_], lesions: NDArray[np.object_]) -> dict[str, Any]:
    return _rounded(metrics.paired_auc_difference(melanoma[of], answers.scores[2], answers.scores[1], lesions[of]).to_dict())


def _fitted(answers: list[Answers]) -> str:
    penalties = sorted({a.fusion.penalty for a in answers if a.fusion.penalty is not None})
    return f"{sum(not a.fusion.identity for a in answers)} of {len(answers)}, penalties {', '.join(f'{p:g}' for p in penalties)}"


def _within(melanoma: NDArray[np.bool_], scores: Floats, device: NDArray[Any]) -> Any:
    """Weights (B, n) -> (B,): mean over devices and seeds of the AUC within a device."""
    parts = [(device == d, metrics.weighted_auc(melanoma[device == d], s[device == d])) for d in DEVICES for s in scores]
    return lambda weights: np.mean([part(weights[:, of]) for of, part in parts], axis=0)


def _figure(value: float, spread: Floats, n: int) -> dict[str, Any]:
    low, high = np.quantile(spread, (0.025, 0.975))
    return _rounded({"value": value, "low": float(low), "high": float(high), "n": n})


def _rounded(figure: dict[str, Any]) -> dict[str, Any]:
    return {key: round(number, 4) if isinstance(number, float) else number for key, number in figure.items()}


if __name__ == "__main__":
    main()
