"""`dxflow compare`: the families of one disease under one budget, as one pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec
from pipelines.run import Options, execute

KEPT = {
    "comparison": ("compare.html", "compare.json", "compare.csv"),
    "validation": ("validation.html", "validation.json"),
}


def compare(
    spec: DiseaseSpec,
    options: Options,
    *,
    families: tuple[str, ...] | None = None,
    epochs: int | None = None,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Run the comparison; returns the contents of compare.json with `run`, `seconds`, `report` and `table`.

    Args:
        families: Names of the spec's families; None for all.
        epochs: Passes over the training samples, the same for every family that counts in epochs; None for the default family's own.

    Raises:
        SpecError: No such family, or only one. The others as a run.
    """
    chosen = tuple(sorted(spec.families)) if families is None else tuple(dict.fromkeys(families))
    if unknown := [name for name in chosen if name not in spec.families]:
        raise SpecError("no such family", where=f"{spec.name}: --families", got=f"'{unknown[0]}'", allowed=", ".join(sorted(spec.families)))
    if len(chosen) < 2:
        raise SpecError("nothing to compare", where=f"{spec.name}: --families", got=f"{len(chosen)} family", allowed="at least 2")
    arguments = {"spec": spec.to_json(), "budgeted": budgeted(spec, epochs).to_json()}
    folder, record = execute(spec, options, arguments, family="all", kept=KEPT, graph="compare", families=chosen, on_event=on_event)
    result: dict[str, Any] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    return result | {
        "run": record.run,
        "seconds": record.seconds,
        "steps": record.steps,
        "report": str(Path(folder / "compare.html")),
        "table": str(folder / "compare.csv"),
    }


def budgeted(spec: DiseaseSpec, epochs: int | None) -> DiseaseSpec:
    """The spec with the same number of epochs for every family."""
    number = epochs or spec.families[spec.default_family].epochs
    raw = spec.model_dump(mode="json")
    for family in raw["families"].values():
        family["epochs"] = number
    return DiseaseSpec.from_json(json.dumps(raw), where=f"{spec.name}: --epochs")
