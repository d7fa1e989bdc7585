"""The AUC without labels on real models: out-of-fold answers of the whole pipeline on published data, by device.

The pipeline is run as `dxflow run` does (folds; every sample is answered once by a model that did not see its patient or lesion), and its
`predictions.parquet` is all that is used. Of each device's lesions two fifths are the labelled reference; windows are drawn without replacement from
the rest, whole lesions, and the truth is the AUC of all of the device's rest. That truth is itself an estimate, and errs the other way than the
reference does, because both are parts of the same lesions: an interval that holds it in fewer than 95 % is not thereby wrong. So the AUC of all the
device's answers, which errs the same way as the reference, stands beside it. With fewer than `KNOWN` positives there is no truth, and the windows
count as judged or not only. The same twenty divisions of lesions for every row.

    DXFLOW_PREDICTIONS   folder of <disease>.parquet from earlier runs, to spare the training
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.metrics import auc
from components.core.spec import DiseaseSpec
from components.monitor.performance import estimate, learn
from tests.benchmarks.drift.pixels import DATA, DISEASES

if TYPE_CHECKING:
    import pandas as pd

SETS = {"HAM10000": ("skin-ham10000", "skin-ham10000"), "Daphnet": ("parkinson-fog", "parkinson-daphnet")}
SIZES, DIVISIONS, SHARE, KNOWN, SEED = (100, 300), 20, 0.4, 20, 20221125
Ints = NDArray[np.int64]


def run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, (disease, folder) in SETS.items():
        if (DATA / folder).exists():
            rows += of(name, DiseaseSpec.from_toml(DISEASES / f"{disease}.toml"), answered(disease, DATA / folder))
    return rows


def answered(disease: str, source: Path) -> pd.DataFrame:
    """The test answers of a run; the run is made unless its predictions are at hand."""
    import pandas as pd

    kept = os.environ.get("DXFLOW_PREDICTIONS")
    if kept and (path := Path(kept) / f"{disease}.parquet").exists():
        table = pd.read_parquet(path)
    else:
        from pipelines.run import Options
        from pipelines.run import run as run_pipeline

        with tempfile.TemporaryDirectory() as home:
            os.environ["DXFLOW_HOME"] = home
            os.environ.setdefault("DXFLOW_KEY", "benchmarks-of-published-data")
            spec = DiseaseSpec.from_toml(DISEASES / f"{disease}.toml")
            table = pd.read_parquet(run_pipeline(spec, Options(source=str(source)))["predictions"])
    return table[table["split"] == "test"].reset_index(drop=True)


def of(name: str, spec: DiseaseSpec, table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each device and size of window, and one for all devices together."""
    p = table[[f"score_{c}" for c in spec.target.classes]].to_numpy(np.float64)
    y, device = table["label"].to_numpy(np.int64), table["device_key"].to_numpy(str)
    group = np.unique(table["group_id"].to_numpy(str), return_inverse=True)[1]
    positive = spec.positive_indices
    ill, score = np.isin(y, positive).astype(np.int64), p[:, list(positive)].sum(1)
    keys, counts = np.unique(device, return_counts=True)
    keys = keys[np.argsort(-counts)].tolist()
    rows = []
    for n in SIZES:
        tried = {key: [0, 0, 0, 0, 0] for key in keys}  # windows; judged; of these with a known truth, held; held of all the device's answers
        widths: dict[str, list[float]] = {key: [] for key in keys}
        truths: dict[str, list[float]] = {key: [] for key in keys}
        reasons: dict[str, str] = {}
        for division in range(DIVISIONS):
            rng = np.random.default_rng([SEED, division])
            own = (rng.permutation(group.max() + 1) < round(SHARE * (group.max() + 1)))[group]
            learned = learn(p[own], y[own], device[own], group[own], positive=positive)
            for key in keys:
                rest = np.flatnonzero(~own & (device == key))
                rows_ = window(rest, group, n, rng)
                found = estimate(learned, p[rows_], key, group[rows_], about="device")
                tried[key][0] += 1
                if not found.judged or found.low is None or found.high is None:
                    reasons.setdefault(key, found.reason)
                    continue
                tried[key][1] += 1
                widths[key].append(found.high - found.low)
                if min(ill[rest].sum(), (1 - ill[rest]).sum()) >= KNOWN:
                    truth = auc(ill[rest], score[rest])
                    truths[key].append(truth)
                    tried[key][2] += 1
                    tried[key][3] += found.low <= truth <= found.high
                    tried[key][4] += found.low <= auc(ill[device == key], score[device == key]) <= found.high
        parts = [(f"{name}, device {k + 1}", [key]) for k, key in enumerate(keys)] if len(keys) > 1 else []
        for what, chosen in [*parts, (f"{name}, all devices" if parts else f"{name}, one device", keys)]:
            windows, judged, known, held, of_all = (sum(tried[key][k] for key in chosen) for k in range(5))
            wide, true = (np.concatenate([np.asarray(of_[key]) for key in chosen]) for of_ in (widths, truths))
            rows.append(
                {
                    "answers": what,
                    "samples, positive": f"{int(np.isin(device, chosen).sum())}, {int(ill[np.isin(device, chosen)].sum())}",
                    "events in a window": n,
                    "windows": windows,
                    "judged": f"{judged / windows:.2f}",
                    "AUC": f"{true.mean():.2f}" if len(true) else "-",
                    "interval holds the AUC of the other answers": f"{held / known:.2f}" if known else "-",
                    "of all answers": f"{of_all / known:.2f}" if known else "-",
                    "median width": f"{np.median(wide):.3f}" if len(wide) else "-",
                    "bound": "0.70, 0.90, 0.15",
                    "why not judged": next((reasons[key] for key in chosen if key in reasons), "-"),
                }
            )
            print(rows[-1], flush=True)
    return rows


def window(rest: Ints, group: Ints, n: int, rng: np.random.Generator) -> Ints:
    """About n of the rows, whole groups; all of them where there are fewer."""
    groups, sizes = np.unique(group[rest], return_counts=True)
    order = rng.permutation(len(groups))
    chosen = groups[order[: int(np.searchsorted(np.cumsum(sizes[order]), n)) + 1]]
    return rest[np.isin(group[rest], chosen)]
