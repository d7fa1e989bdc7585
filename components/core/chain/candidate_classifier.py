"""Which candidates are nodules: figures of each candidate's shape, and a logistic regression on them whose numbers lie in a JSON file.

`detector.json` beside this file is what `python -m pipelines.detector` wrote from the synthetic chest phantom; another file, fitted on marked
series of one's own, takes its place by an option. Nothing in it is code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.chain.ct_volume import Triple
from components.core.chain.nodule_detect import Candidates
from components.core.chain.nodule_segment import Region
from components.core.errors import DataError

DEFAULT = Path(__file__).with_name("detector.json")
SCHEMA = 1
LIMIT = 4.0  # standard deviations beyond which a figure counts no further
NAMES = (
    "answer", "scale", "roundness", "flatness", "wall", "diameter", "contrast", "inner", "attached", "compact", "thin", "long", "aside", "touching",
    "rows", "fill",
)  # fmt: skip


def figures(found: Candidates, k: int, region: Region, step_mm: Triple) -> NDArray[np.float64]:
    """What is known of candidate `k`; (len(NAMES),), unitless or logarithms of mm and HU.

    answer, scale      difference of Gaussians and its scale
    roundness, flatness   smallest and middle curvature over the largest: 1 for a ball, 0 for a tube and a sheet
    wall               distance from the surface of the lung
    diameter, contrast, inner   of the outlined region
    attached           voxels that opening took off it, relative to what is left
    compact            volume over that of the ball around it
    thin, long         smallest and middle extent over the largest
    aside              how far its middle lies from the candidate, relative to its radius
    touching           share of the voxels just outside it that are as dense as it is
    rows               slices that it spans, relative to its diameter
    fill               volume against what the scale promises
    """
    steps = np.array(step_mm)
    where = np.argwhere(region.mask)
    mm = (where - where.mean(0)) * steps
    spread = np.sqrt(np.linalg.eigvalsh((mm.T @ mm) / len(mm) + np.diag(steps**2 / 12)))
    radius = region.diameter_mm / 2
    reach = float(np.sqrt((mm**2).sum(1)).max()) + float(steps.mean()) / 2
    aside = np.linalg.norm((np.array(region.centre) * steps) - found.at[k])
    sharpest = min(float(found.curvature[k, 0]), -1e-6)
    ball = 4 / 3 * np.pi * (found.sigma_mm[k] * 3**0.5) ** 3
    return np.array([
        np.log(found.answer_hu[k]),
        np.log(found.sigma_mm[k]),
        found.curvature[k, 2] / sharpest,
        found.curvature[k, 1] / sharpest,
        found.wall_mm[k],
        np.log(region.diameter_mm),
        (region.inner_hu - region.around_hu) / 500,
        region.inner_hu / 200,
        np.log(max(region.grown, 1) / len(where)),
        (radius / reach) ** 3,
        spread[0] / spread[2],
        spread[1] / spread[2],
        aside / radius,
        region.dense_shell,
        np.ptp(where[:, 0] + 0.0) * steps[0] / region.diameter_mm,
        np.log(region.volume_mm3 / ball),
    ])  # fmt: skip


@dataclass(frozen=True)
class Detector:
    """The fitted numbers.

    Args:
        mean, sd: Of each figure over the training candidates.
        weights: Of the standardised figures, then of their squares.
        threshold: Probability from which a candidate is shown.
        made_from: In words, what it was fitted on.
        synthetic: Whether any of that was simulated.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float
    made_from: str
    synthetic: bool

    def probabilities(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, len(NAMES)) figures -> (n,) probability of being a nodule."""
        if not len(x):
            return np.zeros(0)
        logit = expanded(x, self.mean, self.sd) @ np.array(self.weights) + self.bias
        return 1 / (1 + np.exp(-logit))

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, "names": list(NAMES), **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Detector:
        """Raises DataError when the file is none of ours, or of other figures than these."""
        try:
            raw: Mapping[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            if raw["schema"] != SCHEMA or tuple(raw["names"]) != NAMES:
                raise DataError("a detector for other figures", where=str(path), allowed=f"schema {SCHEMA}: {', '.join(NAMES)}")
            numbers = {name: tuple(float(v) for v in raw[name]) for name in ("mean", "sd", "weights")}
            made = cls(
                **numbers,
                bias=float(raw["bias"]),
                threshold=float(raw["threshold"]),
                made_from=str(raw["made_from"]),
                synthetic=bool(raw["synthetic"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError("not a detector", where=str(path), allowed="what `python -m pipelines.detector` writes") from None
        sizes = (len(made.mean), len(made.sd), len(made.weights))
        everything = np.array([*made.mean, *made.sd, *made.weights, made.bias, made.threshold])
        if sizes != (len(NAMES), len(NAMES), 2 * len(NAMES)) or not np.isfinite(everything).all() or min(made.sd) <= 0:
            raise DataError("a detector with numbers missing or out of range", where=str(path), got=list(sizes))
        return made


def expanded(x: NDArray[np.float64], mean: tuple[float, ...], sd: tuple[float, ...]) -> NDArray[np.float64]:
    """Standardised and limited figures, then their squares: (n, 2 * len(NAMES))."""
    z = np.clip((x - np.array(mean)) / np.array(sd), -LIMIT, LIMIT)
    return np.concatenate([z, z**2 - 1], axis=1)


def fit(x: NDArray[np.float64], is_nodule: NDArray[np.bool_], *, threshold: float, made_from: str, synthetic: bool) -> Detector:
    """Fit the numbers by penalised logistic regression, both classes of equal weight.

    Raises:
        DataError: One of the two classes is absent.
    """
    from sklearn.linear_model import LogisticRegression

    if is_nodule.all() or not is_nodule.any():
        raise DataError(
            "the detector needs nodules and other candidates", where="candidates", got=f"{int(is_nodule.sum())} nodules of {len(is_nodule)}"
        )
    mean, sd = x.mean(0), np.maximum(x.std(0), 1e-6)
    model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000).fit(expanded(x, tuple(mean), tuple(sd)), is_nodule)
    numbers = {"mean": mean, "sd": sd, "weights": model.coef_[0]}
    rounded = {name: tuple(float(f"{v:.6g}") for v in values) for name, values in numbers.items()}
    return Detector(**rounded, bias=float(f"{model.intercept_[0]:.6g}"), threshold=threshold, made_from=made_from, synthetic=synthetic)
