"""`dxflow unseen`: what each device costs that training did not see, as one pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec
from pipelines.run import KEPT_UNSEEN, Options, execute

KEPT = {**KEPT_UNSEEN, "validation": ("validation.html", "validation.json")}


def unseen(spec: DiseaseSpec, options: Options, on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """Leave each device out in turn; returns the contents of unseen.json with `run`, `seconds` and `report`.

    Raises:
        SpecError: No such family. DataError: fewer than three devices that can be judged. The others as a run.
    """
    family = options.family or spec.default_family
    if family not in spec.families:
        raise SpecError("no such family", where=f"{spec.name}: --family", got=f"'{family}'", allowed=", ".join(sorted(spec.families)))
    folder, record = execute(spec, options, {"spec": spec.to_json(), "family": family}, family=family, kept=KEPT, graph="unseen", on_event=on_event)
    result: dict[str, Any] = json.loads((folder / "unseen.json").read_text(encoding="utf-8"))
    return result | {"run": record.run, "seconds": record.seconds, "steps": record.steps, "report": str(folder / "unseen.html")}
