"""Families of one disease side by side, from what train and evaluate wrote for each: figures, cost, shared errors, and what an ensemble gains.

Nothing is chosen on the test split: the best family and the best member are those of the best validation score.

Source:
    The survey's first limitation: architectures are alike, or ensembles of the same. An ensemble gains only where its members err apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import metrics
from components.core.atomic import atomic_dir
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.evaluate.figures import probabilities, truth

if TYPE_CHECKING:
    import pandas as pd

VOTE = "vote of all"
ENSEMBLES = ("soft-voting", "stacking")


@dataclass(frozen=True)
class Candidate:
    """One family as it was trained and evaluated; `rows` are its answered test rows, indexed by sample."""

    family: str
    kind: str
    figures: dict[str, Any]
    model: dict[str, Any]
    cost: dict[str, float]
    rows: pd.DataFrame

    @property
    def validation(self) -> tuple[float, float]:
        """What families are chosen by: validation AUC, then the lower validation loss."""
        best = self.model.get("best", {})
        return best.get("val_auc", 0.0), -best.get("val_loss", float("inf"))


def compare(spec: DiseaseSpec, *, evaluations: list[Path], models: list[Path], costs: list[Path], out: Path) -> dict[str, Any]:
    """Write `compare.json`, `compare.csv` and `compare.html`; whole or not at all.

    Args:
        evaluations, models: As written by evaluate and train, in any order.
        costs: JSON with `family`, `seconds`, `peak_mb` of each training.

    Returns:
        The contents of compare.json: `families` [{family, kind, metrics, parameters, seconds, peak_mb, chosen}], `correlation` {families,
        values}, `ensembles` [{name, members, best_member, gain}], `synthetic`, `n`.

    Raises:
        DataError: The evaluations are not of the same test samples.
    """
    found = _candidates(spec, evaluations, models, costs)
    shared = found[0].rows.index
    for one in found[1:]:
        shared = shared.intersection(one.rows.index)
    if not len(shared):
        raise DataError("the families answered no test sample in common", where="compare", got=", ".join(c.family for c in found))
    shared = shared.sort_values()
    rows = {c.family: c.rows.loc[shared] for c in found}
    p = {name: probabilities(table, spec) for name, table in rows.items()}
    first = rows[found[0].family]
    y = truth(first, spec)
    groups = None if spec.split.grouping == "none" else first["group_id"].to_numpy(dtype=object)
    best = max(found, key=lambda c: c.validation)

    single = [c for c in found if c.kind not in ENSEMBLES]
    ensembles = []
    if len(single) > 1:
        members = [c.family for c in single]
        ensembles.append(_gain(spec, VOTE, members, single, np.mean([p[m] for m in members], axis=0), p, y, groups))
    for c in found:
        if c.kind in ENSEMBLES:
            named = spec.families[c.family].options.get("members")
            members = [str(m) for m in named if str(m) in p] if isinstance(named, list) else []
            if members:
                ensembles.append(_gain(spec, c.family, members, [x for x in found if x.family in members], p[c.family], p, y, groups))
    residuals = np.stack([_residual(p[c.family], y) for c in found])
    result = {
        "disease": spec.name,
        "synthetic": bool(found[0].figures["synthetic"]),
        "n": len(shared),
        "groups": int(first["group_id"].nunique()),
        "families": [_row(c, chosen=c is best) for c in found],
        "correlation": {"families": [c.family for c in found], "values": _correlation(residuals)},
        "ensembles": ensembles,
    }  # fmt: skip
    with atomic_dir(out) as folder:
        (folder / "compare.json").write_text(json.dumps(result, indent=1, sort_keys=True), encoding="utf-8")
        _csv(result, folder / "compare.csv")
        from components.evaluate.compare_page import render

        (folder / "compare.html").write_text(render(spec, result), encoding="utf-8")
    return result


def _row(c: Candidate, *, chosen: bool) -> dict[str, Any]:
    return {
        "family": c.family,
        "kind": c.kind,
        "metrics": c.figures["metrics"],
        "parameters": c.model["n_parameters"],
        "verdict": c.figures["verdict"],
        "epochs": c.model.get("epochs"),
        "seconds": c.cost["seconds"],
        "peak_mb": c.cost["peak_mb"],
        "chosen": chosen,
    }


def _candidates(spec: DiseaseSpec, evaluations: list[Path], models: list[Path], costs: list[Path]) -> list[Candidate]:
    import pandas as pd

    of_model = {m["family"]: m for m in (_json(folder / "model.json") for folder in models)}
    of_cost = {c["family"]: c for c in (_json(path) for path in costs)}
    found = []
    for folder in evaluations:
        figures = _json(folder / "metrics.json")
        family = figures["family"]
        table = pd.read_parquet(folder / "predictions.parquet")
        rows = table[(table["split"] == "test") & ~table["abstain"].astype(bool)].set_index("sample_id")
        if family not in of_model or family not in of_cost:
            raise DataError("an evaluation without its model", where="compare", got=family, allowed=", ".join(sorted(of_model)))
        found.append(Candidate(family, spec.families[family].kind, figures, of_model[family], of_cost[family], rows))
    if len({c.family for c in found}) != len(found) or not found:
        raise DataError("each family once", where="compare", got=", ".join(sorted(c.family for c in found)))
    return sorted(found, key=lambda c: c.family)


def _residual(p: NDArray[np.float64], y: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) how far each answer is from the truth: 1 - p(true class), or the mean over the classes of a multi-label target."""
    if y.ndim == 2:
        return np.abs(p - y).mean(axis=1)
    return 1 - p[np.arange(len(y)), y]


def _correlation(residuals: NDArray[np.float64]) -> list[list[float | None]]:
    """Pearson correlation of the errors between families, (F, F); None where a family makes the same error everywhere."""
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.atleast_2d(np.corrcoef(residuals))
    return [[round(float(v), 4) if np.isfinite(v) else None for v in row] for row in table]


def _gain(
    spec: DiseaseSpec, name: str, members: list[str], candidates: list[Candidate], together: NDArray[np.float64], p: dict[str, NDArray[np.float64]],
    y: NDArray[Any], groups: NDArray[Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """What an ensemble gains over its best member, paired on the same samples; the best member is validation's."""
    best = max(candidates, key=lambda c: c.validation).family
    positive = spec.positive_indices or ((spec.positive_index,) if spec.target.kind == "binary" else ())
    if positive:
        truth01 = np.isin(y, positive).astype(int)
        a, b = together[:, list(positive)].sum(1), p[best][:, list(positive)].sum(1)
        value, by = metrics.auc(truth01, a), metrics.paired_auc_difference(truth01, a, b, groups)
        measure = "AUC"
    else:
        a, b = -_brier(together, y), -_brier(p[best], y)
        value, by = float(a.mean()), metrics.paired_mean_difference(a, b, groups)
        measure = "negative Brier score"
    really = by.low is not None and by.low > 0
    worse = by.high is not None and by.high < 0
    return {
        "name": name, "members": members, "best_member": best, "measure": measure, "value": value, "gain": by.to_dict(),
        "verdict": "better than its best member" if really else "worse than its best member" if worse else "no gain shown",
    }  # fmt: skip


def _brier(p: NDArray[np.float64], y: NDArray[Any]) -> NDArray[np.float64]:
    hot = y.astype(float) if y.ndim == 2 else np.eye(p.shape[1])[y]
    return ((p - hot) ** 2).sum(axis=1)


def _csv(result: dict[str, Any], path: Path) -> None:
    import csv

    names = list(result["families"][0]["metrics"])
    with open(path, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(
            ["family", "kind", *(f"{n}{end}" for n in names for end in ("", "_low", "_high")), "parameters", "epochs", "seconds", "peak_mb", "chosen"]
        )
        for row in result["families"]:
            figures = [row["metrics"][n][key] for n in names for key in ("value", "low", "high")]
            table.writerow(
                [row["family"], row["kind"], *figures, row["parameters"], row["epochs"], row["seconds"], row["peak_mb"], int(row["chosen"])]
            )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError("missing or not JSON", where=str(path)) from None
