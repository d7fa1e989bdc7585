"""Writes a disease's phantom: the generator that the spec names, at the size that it names."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core.errors import DataError, SpecError
from components.core.spec import DiseaseSpec
from components.core.step import end_helpers
from pipelines.terminal import events_to


def write(
    spec: DiseaseSpec,
    out: Path,
    *,
    patients: int | None = None,
    seed: int | None = None,
    unseen: bool = False,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Write a synthetic collection into the new folder `out`; returns the generator's summary.

    Raises:
        SpecError: The disease has no phantom. DataError: `out` exists.
    """
    if spec.phantom is None:
        raise SpecError("this disease has no phantom", where=f"{spec.name}: phantom")
    if out.exists() and any(out.iterdir()):
        raise DataError("the folder is not empty", where="--out", got=out)
    generator = importlib.import_module(f"components.core.phantoms.{spec.phantom.generator.replace('-', '_')}")
    on_event({"event": "step-start", "step": "phantom"})
    started = time.monotonic()
    try:
        with events_to(on_event):
            facts = generator.generate(
                out, patients=patients or spec.phantom.patients, seed=spec.phantom.seed if seed is None else seed, unseen=unseen
            )
    finally:
        end_helpers()
    on_event({"event": "step-end", "step": "phantom", "seconds": time.monotonic() - started})
    return facts
