"""From one file that a client sent to samples, by the code that ingest uses for its format. No error quotes a value out of the file.

Each format is one module of this folder, found by its name:

    TYPES              content types
    fits(spec)         whether a model of this spec takes the format
    read(body, spec, pseudonymiser) -> list[Query]
    warm()             imports what the first request would wait for; only where that is much

`serving/queries.py` finds the files in a request; `body.py` and `text.py` are shared by the formats.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from components.core.errors import DataError
from components.core.imaging import picture_kinds
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving.bodies.body import Body
from serving.kinds import CSV, NIFTI, sniffed
from serving.predictor import Query

SHARED = ("body", "text")
ALIASES = {"application/gzip": NIFTI, "application/x-gzip": NIFTI, "application/nifti": NIFTI, "application/csv": CSV, **picture_kinds.ALIASES}
"""Other names under which clients send the same thing."""


class NotTaken(DataError):
    """A file of a kind that the model does not take."""


@cache
def formats() -> tuple[ModuleType, ...]:
    """Every format's module, by name."""
    names = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem not in SHARED)
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def offered(spec: DiseaseSpec) -> tuple[str, ...]:
    """The content types that a model of this spec takes, sorted; its samples may also come as numbers in JSON or a tensor."""
    return tuple(sorted({kind for one in formats() if one.fits(spec) for kind in one.TYPES}))


@cache
def known() -> tuple[str, ...]:
    """The content types of all formats, sorted."""
    return tuple(sorted({kind for one in formats() for kind in one.TYPES}))


def warm(spec: DiseaseSpec) -> None:
    """Import what the formats of this spec need: seconds that the first request would pay."""
    for one in formats():
        if one.fits(spec) and hasattr(one, "warm"):
            one.warm()


def plain(kind: str) -> str:
    """A content type without its parameters, in small letters, by its usual name."""
    name = kind.split(";", maxsplit=1)[0].strip().lower()
    return ALIASES.get(name, name)


def read(kind: str | None, body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """The samples of one file.

    Args:
        kind: Its content type; None where the request does not say: then its first bytes do.

    Raises:
        NotTaken: A type that the model does not take.
        DataError: A file that it cannot use; `where` is the body's, or a point's.
    """
    found = sniffed(body.head()) if kind is None else plain(kind)
    one = next((m for m in formats() if found in m.TYPES and m.fits(spec)), None)
    if one is None:
        raise NotTaken("not a file that this model takes", where=body.where, allowed=", ".join(offered(spec)) or "numbers only")
    try:
        return one.read(body, spec, pseudonymiser)
    except DataError as error:  # the decoders do not know where in the request the file stood
        own = error.where in body.names
        raise DataError(error.what, where=error.where if own else body.where, got=error.got, allowed=error.allowed) from None
    except (MemoryError, RecursionError):
        raise DataError("needs more memory than the server gives a request", where=body.where) from None
