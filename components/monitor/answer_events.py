"""What the monitor takes of each answer, as one table for a batch: nothing of it names a patient, and all of it adds up over batches.

device, maker, model, software, second     who answered with what, and when (Unix seconds)
answered, failed, abstained, blind         what became of the request; blind: about a slide, and there is nothing to compare slides with
stratum                                    place of the patient in the case mix
n_<check>, asked                           which checks the answer misses, see `window_checks.py`
feature:<name>                             the watched features
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor import window_checks
from components.monitor.watched import Watched, devices

if TYPE_CHECKING:
    import pandas as pd

FEATURE = "feature:"
HUNDREDTHS = "score_at_"
"""Of facts: how many answers have this probability, in hundredths. The quantile of rounded probabilities is the rounded quantile, exactly; what is
read off the places of a sketch ends where the reference ends."""


def of(watched: Watched, rows: pd.DataFrame, figures: Sequence[str]) -> pd.DataFrame:
    """The events of a batch of logged answers of one model, in their order.

    Args:
        figures: Columns of image figures that an answer should have.
    """
    import pandas as pd

    answered = rows["status"].isin(("answered", "abstained")).to_numpy(bool)
    blind = watched.blind(rows[answered])
    key = np.array(devices(rows), dtype=object)
    found: dict[str, Any] = {
        "device": key, "second": rows["time"].to_numpy("datetime64[s]").astype(np.int64), "answered": answered,
        "failed": rows["status"].isin(("error", "refused")).to_numpy(bool), "abstained": rows["abstain"].to_numpy(bool) & answered,
        "blind": np.isin(key.astype(str), sorted(blind)), "stratum": watched.mix.strata(rows),
        "maker": _words(rows, "manufacturer"), "model": _words(rows, "device_model"), "software": _words(rows, "software"),
    }  # fmt: skip
    checks = window_checks.flags(rows, classes=watched.model.spec.target.classes, figures=figures, unknown=UNKNOWN_DEVICE)
    found |= {name: which & answered for name, which in checks.items()}
    found |= {FEATURE + name: values for name, values in watched.columns(rows).items()}
    return pd.DataFrame(found)


def features(events: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Feature -> (n,) values."""
    return {name.removeprefix(FEATURE): events[name].to_numpy() for name in events.columns if name.startswith(FEATURE)}


def facts(events: pd.DataFrame, score: str | None) -> dict[str, float]:
    """Sums over one device's events.

    Args:
        score: The feature that is the probability that is told, if there is one.
    """
    out = {"errors": float(events["failed"].sum()), "abstained": float(events["abstained"].sum())}
    answered = events[events["answered"]]
    if not len(answered):
        return out
    out |= {name: float(answered[name].sum()) for name in answered.columns if name.startswith("n_") or name == "asked"}
    if score is not None:
        values = answered[FEATURE + score].to_numpy(np.float64)
        finite = values[np.isfinite(values)]
        places, times = np.unique(np.rint(100 * np.clip(finite, 0, 1)).astype(int), return_counts=True)
        out |= {"score_sum": float(finite.sum()), "score_n": float(len(finite))}
        out |= {f"{HUNDREDTHS}{place}": float(n) for place, n in zip(places.tolist(), times.tolist(), strict=True)}
    return out


def score_quantiles(sums: dict[str, float], shares: Sequence[float]) -> list[float | None]:
    """Quantiles of the probability, rounded to hundredths; None where none was counted. sums: as `facts`, added up."""
    counted = sorted((int(name.removeprefix(HUNDREDTHS)), n) for name, n in sums.items() if name.startswith(HUNDREDTHS))
    if not counted:
        return [None] * len(shares)
    places, times = np.array([place for place, _ in counted]), np.cumsum([n for _, n in counted])
    return [float(places[min(int(np.searchsorted(times, share * times[-1])), len(places) - 1)]) / 100 for share in shares]


def _words(rows: pd.DataFrame, name: str) -> NDArray[np.object_]:
    """Texts, None where there is none."""
    if name not in rows:
        return np.full(len(rows), None, dtype=object)
    gone = rows[name].isna().to_numpy(bool)
    return np.array([None if missing or value == "" else str(value) for value, missing in zip(rows[name], gone, strict=True)], dtype=object)
