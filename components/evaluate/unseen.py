"""Leave-one-device-out: what a model is worth on a device that its training never saw, for every device of the data.

Each branch trains and is evaluated as any run, with `split.leave_out` in its spec; here the answers come together. Within a device, since
devices differ in how many of their patients are ill.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.core.atomic import atomic_dir
from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.left_out import LEAST, candidates, needed
from components.core.spec import DiseaseSpec


def branches(spec: DiseaseSpec, dataset: Path, *, refuse: bool) -> list[DiseaseSpec]:
    """The spec of each branch: without folds, one device left out. The spec itself alone, where fewer than three devices can be judged.

    Raises:
        DataError: Fewer than three, with `refuse`.
    """
    keys = candidates(Dataset(dataset, expect=spec).manifest, spec, least=LEAST if refuse else 0)
    if len(keys) < LEAST:
        return [spec]
    out = []
    for key in keys:
        raw = spec.model_dump(mode="json")
        raw["split"] |= {"folds": 1, "leave_out": key}
        out.append(DiseaseSpec.from_json(json.dumps(raw), where=f"{spec.name}: split.leave_out"))
    return out


def unseen(spec: DiseaseSpec, *, evaluations: list[Path], models: list[Path], out: Path) -> dict[str, Any]:
    """Write `unseen.json` and `unseen.html`; whole or not at all.

    Args:
        evaluations, models: As written by evaluate and train for each branch, in the same order.

    Returns:
        The contents of unseen.json: `devices` [{key, name, n, unseen, seen}] where `unseen` is the AUC estimate of a model that did not see the
        device and `seen` the mean AUC within those that did, None where too few samples; `unseen`, `seen` and `gap`, their means; `synthetic`;
        `none_left_out`, why there are no devices, else None.

    Raises:
        DataError: A model that left another device out than its evaluation is of, or none among several.
    """
    rows = []
    synthetic = False
    for evaluation, model in zip(evaluations, models, strict=True):
        figures = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
        synthetic |= bool(figures["synthetic"])
        key = DiseaseSpec.from_json((model / "spec.json").read_text(encoding="utf-8")).split.leave_out
        if not key and len(models) == 1:
            continue
        if key not in figures["devices"]:
            raise DataError("an evaluation without the device that was left out", where=str(evaluation), got=f"'{key}'")
        own = figures["devices"][key]
        among = [facts["auc"] for name, facts in figures["devices"].items() if name != key]
        known = [auc["value"] for auc in among if auc["value"] is not None]
        rows.append({"key": key, "name": own["name"], "n": own["n"], "unseen": own["auc"], "seen": float(np.mean(known)) if known else None})
    rows.sort(key=lambda row: row["key"])
    both = [(row["seen"], row["unseen"]["value"]) for row in rows if row["seen"] is not None and row["unseen"]["value"] is not None]
    seen, away = (float(np.mean([pair[k] for pair in both])) if both else None for k in (0, 1))
    result: dict[str, Any] = {
        "disease": spec.name,
        "synthetic": synthetic,
        "devices": rows,
        "none_left_out": None if rows else f"the data do not have {needed(spec)}",
        "seen": seen,
        "unseen": away,
        "gap": None if seen is None or away is None else seen - away,
    }
    with atomic_dir(out) as folder:
        (folder / "unseen.json").write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
        (folder / "unseen.html").write_text(page(spec, result), encoding="utf-8")
    return result


def page(spec: DiseaseSpec, result: dict[str, Any]) -> str:
    """The table as a page that opens without a network."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("unseen.html.j2").render(spec=spec, result=result)
