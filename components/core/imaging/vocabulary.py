"""Names that may leave a header as they stand, from `vocabulary.toml`; everything else becomes a keyed hash."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from pathlib import Path

from components.core.pseudonym import Pseudonymiser

SYNTHETIC = "SYNTHETIC "


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[dict[str, str], re.Pattern[str], re.Pattern[str]]:
    raw = tomllib.loads((Path(__file__).parent / "vocabulary.toml").read_text(encoding="utf-8"))
    makers = {_plain(spelling): name for name, spellings in raw["manufacturers"].items() for spelling in spellings}
    models, kernels = (re.compile("|".join(f"(?:{p})" for part in raw[kind].values() for p in part)) for kind in ("models", "kernels"))
    return makers, models, kernels


@lru_cache(maxsize=1)
def _simulated() -> dict[str, dict[str, str]]:
    """What the phantoms' scanners are called, by the name in capitals: the only synthetic names that pass."""
    from components.core.phantoms.scanners import SCANNERS

    return {
        "manufacturer": {_plain(s.manufacturer): s.manufacturer for s in SCANNERS},
        "model": {_plain(s.model): s.model for s in SCANNERS},
        "kernel": {_plain(s.kernel): s.kernel for s in SCANNERS},
    }


def manufacturer(text: str, pseudonymiser: Pseudonymiser) -> str | None:
    """Canonical maker, the simulated maker, `other-xxxxxxxx`, or None for nothing."""
    plain = _plain(text)
    return _simulated()["manufacturer"].get(plain) or _vocabulary()[0].get(plain) or _other("manufacturer", plain, pseudonymiser)


def model(text: str, pseudonymiser: Pseudonymiser) -> str | None:
    """The model in capitals if it is one of the vocabulary's, else `other-xxxxxxxx`, or None for nothing."""
    plain = _plain(text)
    if simulated := _simulated()["model"].get(plain):
        return simulated
    return plain if _vocabulary()[1].fullmatch(plain) else _other("model", plain, pseudonymiser)


def kernel(text: str, pseudonymiser: Pseudonymiser) -> str | None:
    """The reconstruction kernel in capitals if it is one of the vocabulary's, else `other-xxxxxxxx`, or None for nothing."""
    plain = _plain(text)
    if simulated := _simulated()["kernel"].get(plain):
        return simulated
    return plain if _vocabulary()[2].fullmatch(plain) else _other("kernel", plain, pseudonymiser)


def _plain(text: str) -> str:
    return " ".join(text.replace("\0", " ").split()).upper()


def _other(kind: str, plain: str, pseudonymiser: Pseudonymiser) -> str | None:
    return f"other-{pseudonymiser.id(kind, plain)[:8]}" if plain else None
