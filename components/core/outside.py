"""Whether a sample lies outside what its model was tested on: then an answer would be a guess, however sure the model is of it.

Limits come from the package's own reference (validation and test samples): of each image figure, and of how far the network's embedding lies from the
training samples' mean. They are wide: they find the image of another body part, a burnt-out photograph or a broken detector, not a shift within what
devices do, which is the drift monitor's matter. Where the reference is too small, nothing is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import image_quality
from components.core.embedding import PREFIX
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

LEAST = 60
"""Samples of the reference below which its first and last percentile say nothing."""
QUALITY = {
    "noise_sd": ("high", "more noise"), "sharpness": ("low", "less sharp"), "clipped_low": ("high", "more clipped at the dark end"),
    "clipped_high": ("high", "more clipped at the bright end"), "blockiness": ("high", "more compressed"), "sd": ("low", "less contrast"),
}  # fmt: skip
"""Figures whose bad end is poor quality; beyond the other limits a sample is merely unlike the others."""
COLOUR, GREY = ("red_green", "blue_green"), 0.02
"""Ratios of channels, in octaves; a picture whose ratios are both smaller is grey."""
LEVELS = ("mean", "p01", "p50", "p99")
LEAST_SPREAD = {"noise_sd": 0.25, "sharpness": 0.25, "sd": 0.25}
"""Of the median: a reference of one scanner varies less than scanners do, and its own spread alone would call the next one broken."""
LEAST_LEVEL, LEAST_OTHER = 0.05, 0.1
"""Of the input's range for levels; of one for shares, ratios and octaves."""
OUTSIDE, LOW_QUALITY, ACQUISITION, UNSEEN = "outside the training distribution", "low quality", "acquisition outside the spec", "unknown device"


@dataclass(frozen=True)
class Limits:
    """What is still inside.

    Args:
        figures: Image figure -> lowest and highest value.
        distance: Largest length of the projected embedding, in spreads of the training samples; None where there is none.
        acquisition: As in the spec.
        coloured: Every sample of the reference has colour. A grey picture is often another kind of image, and its channels' ratio of 1 lies within
            what the light of rooms and cameras does to colour.
    """

    figures: Mapping[str, tuple[float, float]]
    distance: float | None
    acquisition: Mapping[str, tuple[float, float]]
    coloured: bool = False

    @classmethod
    def learn(cls, spec: DiseaseSpec, reference: pd.DataFrame) -> Limits:
        """From `reference.parquet`."""
        far = spec.abstain.outside
        figures: dict[str, tuple[float, float]] = {}
        distance, coloured = None, False
        if far and len(reference) >= LEAST:
            if set(COLOUR) <= {*reference.columns}:
                coloured = bool((reference[list(COLOUR)].abs().max(axis=1) > GREY).all())
            for name in image_quality.names(spec) if spec.input.layout != "table" else ():
                if name in reference:
                    values = reference[name].dropna().to_numpy(np.float64)
                    if len(values) >= LEAST:
                        figures[name] = _limits(values, far, _least(name, float(np.median(values)), spec))
            embedded = [name for name in reference.columns if name.startswith(PREFIX)]
            if embedded:
                length = np.linalg.norm(reference[embedded].dropna().to_numpy(np.float64), axis=1)
                if len(length) >= LEAST:
                    distance = _limits(length, far, 0.25 * float(np.median(length)))[1]
        return cls(figures, distance, dict(spec.abstain.acquisition), coloured)

    def reasons(self, figures: Mapping[str, float], acquisition: Mapping[str, Any]) -> list[str]:
        """Why a sample should get no decision before the model is asked. No reason holds a value of a patient's header: only limits and figures."""
        out = []
        for name, (low, high) in self.acquisition.items():
            value = acquisition.get(name)
            if isinstance(value, int | float) and not low <= value <= high:
                out.append(f"{ACQUISITION}: {name.removeprefix('acq_')} {value:g}, allowed {low:g} to {high:g}")
        beyond: list[tuple[bool, str]] = []
        if self.coloured and all(abs(figures.get(name, 1.0)) <= GREY for name in COLOUR):
            beyond.append((False, f"{OUTSIDE}: no colour, which every image has that the model was tested on"))
        for name, (low, high) in self.figures.items():
            value = figures.get(name)
            if value is None or not np.isfinite(value) or low <= value <= high:
                continue
            end = "high" if value > high else "low"
            bad, words = QUALITY.get(name, ("", ""))
            if end == bad:
                beyond.append((True, f"{LOW_QUALITY}: {words} than any image that the model was tested on"))
            else:
                beyond.append((False, f"{OUTSIDE}: {name.replace('_', ' ')} {value:.3g}, tested {low:.3g} to {high:.3g}"))
        return out + [text for _, text in sorted(beyond, key=lambda b: not b[0])]

    def far(self, columns: NDArray[np.floating]) -> bool:
        """Whether an embedding (k,), projected as the reference's, lies outside."""
        return self.distance is not None and bool(np.isfinite(columns).all()) and float(np.linalg.norm(columns)) > self.distance


def _least(name: str, median: float, spec: DiseaseSpec) -> float:
    """The spread that a figure is taken to have at least."""
    if name in LEVELS:
        return LEAST_LEVEL * (spec.input.range[1] - spec.input.range[0])
    return LEAST_SPREAD[name] * abs(median) if name in LEAST_SPREAD else LEAST_OTHER


def _limits(values: NDArray[np.float64], far: float, least: float) -> tuple[float, float]:
    low, middle, high = np.quantile(values, (0.01, 0.5, 0.99))
    return float(min(values.min(), middle - far * max(middle - low, least))), float(max(values.max(), middle + far * max(high - middle, least)))
