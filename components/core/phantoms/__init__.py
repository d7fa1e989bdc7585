"""Synthetic collections, found by name: the generator "chest-ct" of a spec is `chest_ct.generate` in this folder.

They stand in for patients in CI, in `make run` and in fault tests. Everything they write says that it is synthetic.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core.errors import SpecError


def kinds() -> list[str]:
    """All generator names, sorted: the files here that define `generate`; the others are their parts."""
    return sorted(p.stem.replace("_", "-") for p in Path(__file__).parent.glob("[a-z]*.py") if "\ndef generate(" in p.read_text(encoding="utf-8"))


def generator(name: str) -> Callable[..., dict[str, Any]]:
    """`generate(folder, *, patients, seed, workers=None, unseen=False, devices=None) -> summary` of one generator."""
    if name not in kinds():
        raise SpecError("no such phantom", where="phantom.generator", got=f"'{name}'", allowed=", ".join(kinds()))
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").generate
