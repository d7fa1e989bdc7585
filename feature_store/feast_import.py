"""Importing Feast 0.67 in 1.3 s of processor time instead of 6 (docs/decisions/0040-feast-import.md).

Two of its habits cost nearly all of it: `feast.torch_wrapper` imports torch whether or not anybody asks for a tensor, and `typeguard`
re-parses and recompiles thirteen classes to check argument types at run time. Both are replaced at their seam while Feast is imported
and at no other time; neither changes what Feast computes. When a later Feast drops a habit, its line here does nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import types
import warnings
from typing import Any

_LOCK = threading.Lock()


def feast() -> Any:
    """The module `feast`, imported once."""
    with _LOCK:
        if "feast" in sys.modules:
            return sys.modules["feast"]
        os.environ.setdefault("FEAST_USAGE", "False")
        import typeguard

        wrapper = types.ModuleType("feast.torch_wrapper")
        wrapper.get_torch = lambda: importlib.import_module("torch")  # type: ignore[attr-defined]
        sys.modules["feast.torch_wrapper"] = wrapper
        checked = typeguard.typechecked
        typeguard.typechecked = _unchanged  # type: ignore[assignment]
        try:
            with warnings.catch_warnings():  # Feast switches deprecation warnings on for everybody; steps print no warnings at all
                return importlib.import_module("feast")
        finally:
            typeguard.typechecked = checked


def _unchanged(target: Any = None, **_: Any) -> Any:
    """Stands in for `typeguard.typechecked`, used bare or with arguments."""
    return target if target is not None else _unchanged
