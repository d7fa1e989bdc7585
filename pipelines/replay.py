"""Ask a server about a whole folder: every sample that ingest finds in it, prepared as for training, sent as arrays.

So any reader's format can be answered, recordings and photographs as well as DICOM, and the inference log fills as a site would fill it: with
keyed hashes of device and patient, the acquisition's figures, and the covariates that the spec names.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from components.core.acquisition import possible
from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.home import home
from components.core.package import SYNTHETIC
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from feature_store.covariates import told
from pipelines import catalog
from serving.client import ask

VALUES = 200_000
"""Numbers in one request: about 2 MB of JSON."""


def replay(url: str, model: str, source: Path, timeout_s: float) -> dict[str, Any]:
    """Answers about every sample.

    Args:
        model: A disease of the catalogue; `synthetic/<disease>` is taken too.
        source: As `dxflow run --source`. Labels in it are not sent.

    Returns:
        `samples`, `decisions` {class: n}, `abstained`, `reasons` {reason: n}, `devices` {device_key: n}, `model`, `version`, `synthetic`.

    Raises:
        DataError: The source, or the server refuses a sample. SpecError: No such disease or model. ServiceError: No server, or it fails.
    """
    spec = catalog.load(model.removeprefix(SYNTHETIC))
    parent = home() / "work"
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="replay-", dir=parent))
    try:
        with redirect_stdout(StringIO()):  # the step's events
            ingest(spec, str(source), dataset=scratch / "dataset", features=scratch / "features")
        data = Dataset(scratch / "dataset", expect=spec)
        return _ask_all(url, model, spec, data, told(scratch / "features", data.manifest, spec.covariates), timeout_s)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _ask_all(url: str, model: str, spec: DiseaseSpec, data: Dataset, known: list[dict[str, Any]], timeout_s: float) -> dict[str, Any]:
    rows = data.manifest.to_dict("records")
    at_once = max(1, min(64, VALUES // int(np.prod(spec.input.shape))))
    decisions, reasons, devices = Counter[str](), Counter[str](), Counter[str]()
    last: dict[str, Any] = {}
    for start in range(0, len(rows), at_once):
        chosen = np.arange(start, min(start + at_once, len(rows)))
        arrays = data.read(chosen).astype(np.float64)
        body = json.dumps({"instances": [_instance(x, rows[n], known[n]) for x, n in zip(arrays, chosen.tolist(), strict=True)]}).encode()
        for answer in ask(url, model, body, {"Content-Type": "application/json"}, timeout_s):
            last = answer
            devices[answer["device"]["key"]] += 1
            if answer["abstain"]:
                reasons.update(answer["reasons"])
            else:
                decisions[str(answer["decision"])] += 1
    if not last:
        raise DataError("no samples in the source", where="FILE", got=0)
    return {
        "samples": len(rows), "decisions": dict(decisions.most_common()), "abstained": len(rows) - sum(decisions.values()),
        "reasons": dict(reasons.most_common()), "devices": dict(devices.most_common()),
        "model": last["model"], "version": last["version"], "synthetic": last["synthetic"],
    }  # fmt: skip


def _instance(x: np.ndarray, row: Mapping[Any, Any], covariates: Mapping[str, Any]) -> dict[str, Any]:
    known = {"device_key": row["device_key"], "patient_key": row.get("patient_id"), "software_key": row.get("software")}
    known |= {"manufacturer": row.get("manufacturer"), "device_model": row.get("model")}
    out: dict[str, Any] = {"array": x.tolist()} | ({"covariates": covariates} if covariates else {})
    out |= {name: value for name, value in known.items() if isinstance(value, str) and value and (name == "device_key" or value != UNKNOWN_DEVICE)}
    figures = {name: value for name, value in row.items() if name.startswith("acq_")}
    told: dict[str, Any] = {k: float(v) for k, v in figures.items() if possible(k, v)}  # a header may declare what cannot be
    told |= {k: v for k, v in figures.items() if isinstance(v, str) and v}
    return out | ({"acquisition": told} if told else {})
