"""`fundus-screening`: the collection of `fundus` with two external sets, in folders of their own, that no training touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.phantoms import fundus
from components.core.phantoms.fundus_camera import EXTERNAL


def generate(folder: Path, *, patients: int, seed: int, unseen: bool = False) -> dict[str, Any]:
    """See `fundus.generate`; the external sets are `messidor-2` and `e-ophtha`."""
    return fundus.generate(folder, patients=patients, seed=seed, unseen=unseen, external=tuple(EXTERNAL))
