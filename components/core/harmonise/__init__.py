"""What a device did to one sample, undone from that sample alone: no profile is needed, so it works for a device that nobody has seen.

A method is a module of this folder with `harmonise(x, axes)`; `normalise.per_sample` of a spec names them in their order, with "-" for "_".
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.core.errors import SpecError

Floats = NDArray[np.float32]


def names() -> tuple[str, ...]:
    """Every method, as a spec writes it."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def fits(name: str, axes: int, channels: int) -> bool:
    """Whether a method takes samples with so many axes of space or time and so many channels."""
    method = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return axes in method.AXES and method.CHANNELS in (0, channels)


def harmonised(x: Floats, methods: Sequence[str], *, axes: int, where: str) -> Floats:
    """Samples after each method in turn.

    Args:
        x: (n, channels, ...), the input's range brought to [0, 1]; values may lie outside.
        axes: How many of the last dimensions are space or time.
        where: Names the spec in errors.

    Returns:
        The shape of x, float32; a sample's values depend on no other sample.

    Raises:
        SpecError: No such method, or not for this kind of sample.
    """
    for name in methods:
        if name not in names():
            raise SpecError("no such method", where=f"{where}: normalise.per_sample", got=f"'{name}'", allowed=", ".join(names()))
        method = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        if not fits(name, axes, x.shape[1]):
            allowed = f"{' or '.join(str(a) for a in method.AXES)} axes" + (f", {method.CHANNELS} channels" if method.CHANNELS else "")
            raise SpecError(
                f"'{name}' does not fit these samples",
                where=f"{where}: normalise.per_sample",
                got=f"{axes} axes, {x.shape[1]} channels",
                allowed=allowed,
            )
        if len(x):
            x = np.asarray(method.harmonise(x, axes), dtype=np.float32)
    return x
