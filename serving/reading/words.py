"""An answer as the reading page shows it: `serving/said.py`, with spaces that do not break, and what stands beside an image there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.core import wording
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from serving import said as answers
from serving.said import ASSISTS, Said, device

__all__ = ["ASSISTS", "SYNTHETIC", "device", "limits", "part", "said"]
SYNTHETIC = "Trained on SYNTHETIC data: nothing that such a model says holds for a patient."


def said(answer: Mapping[str, Any], package: ModelPackage) -> Said:
    """The answer in words."""
    found = answers.said(answer, answers.positive(package.spec))
    (short,) = wording.unbroken([found.short])
    return replace(found, short=short, lines=wording.unbroken(found.lines))


def part(answer: Mapping[str, Any], spec: DiseaseSpec) -> str:
    """Which part of its file the answer is about, as a sentence; "" where it is about all of it."""
    found = answer.get("part") or {}
    if "window" in found:
        start = float(found["start_s"])
        return f"Window {found['window'] + 1} of a recording: {start:.1f} to {start + (spec.input.window_s or 0):.1f}\u00a0s."
    if "tiles" in found:
        return f"All {found['tiles']} tiles with tissue were judged together. The picture is the whole slide, smaller."
    if "row" in found:
        return f"Row {found['row'] + 1} of a table."
    return ""


def limits(package: ModelPackage) -> list[str]:
    """What the model card says nobody should forget."""
    part = re.search(r"^## Limits\n(.*?)(?=^## |\Z)", package.card, flags=re.M | re.S)
    return [line.removeprefix("- ") for line in part[1].strip().splitlines() if line.startswith("- ")] if part else []
