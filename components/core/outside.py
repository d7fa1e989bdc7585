"""Whether a sample lies outside what its model was tested on: then an answer would be a guess, however sure the model is of it.

    table       each value in the spec's range; the row as a whole (`Likeness` over its columns)
    image, ...  one distance over figures of image quality and of how the sample is put together; after the network one over its embedding
    all         acquisition parameters that the spec bounds

The measures are learned at registration (`components/register/outside_measure.py`) and stand in the package as `outside.json`. They find the image of
another body part, one that stands on its head, a detector that is broken; what devices do among themselves is the drift monitor's matter, and the
measure knows how far devices differ. Where there is no measure, card, report, server and each answer say so (`Outside.check`). Decision 0230.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import arrangement
from components.core.errors import DataError
from components.core.filtered import Filtered, mean_square
from components.core.likeness import LEAST, LEAST_GROUPS, Likeness
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    from components.core.package import ModelPackage

Floats = NDArray[np.float64]
OUTSIDE, LOW_QUALITY, ACQUISITION, UNSEEN = "outside the training distribution", "low quality", "acquisition outside the spec", "unknown device"
JUDGED, SWITCHED_OFF, OLDER, TOO_FEW = (
    "judged", "not judged: switched off in the spec", "not judged: the package is older than this check",
    f"not judged: the model had fewer than {LEAST} samples or {LEAST_GROUPS} groups to learn it from",
)  # fmt: skip
"""What `Outside.check` says."""
QUALITY = {
    "noise_sd": ("high", "more noise"), "noise_share": ("high", "more noise"), "noise_of_range": ("high", "more noise"),
    "sharpness": ("low", "less sharp"), "fineness": ("low", "less sharp"),
    "clipped_low": ("high", "more clipped at the dark end"), "clipped_high": ("high", "more clipped at the bright end"),
    "blockiness": ("high", "more compressed"), "sd": ("low", "less contrast"),
}  # fmt: skip
"""Figures whose bad end is poor quality; the others merely make a sample unlike the rest."""
WORDS = {
    "block": "what lies where", "rough": "where the structure lies", "octave": "how much is fine and how much coarse",
    "tails": "the histogram", "lean": "the histogram", "middle": "the histogram", "skewness": "the histogram",
    "light": "contrast", "sd": "contrast", "tint": "how much colour there is", "together": "how colours go together", "red": "colour",
    "blue": "colour",
    "shown": "how much of the field is lit", "level": "levels of the channels", "swing": "swing of the channels",
    "mean": "brightness", "p01": "brightness", "p50": "brightness", "p99": "brightness", "clipped": "clipped values", "blockiness": "compression",
    "noise": "noise", "sharpness": "sharpness", "fineness": "sharpness", "steps": "sharpness",
}  # fmt: skip
BLURRED = f"{LOW_QUALITY}: less fine structure than in the samples that the model was tested on"
NAMED = 3  # figures of a reason
TINY = 1e-3  # of the range
SMOOTH = 2.05  # octaves: differences of what is smooth are half as large at half the distance
UNITS = ("mean", "p01", "p50", "p99")
FLOORS = dict.fromkeys(UNITS, 0.02) | {
    "noise_sd": 0.1,
    "clipped_low": 0.2,
    "clipped_high": 0.2,
    "fineness": 0.1,
    "noise_of_range": 0.02,
    "steps": 0.02,
}
"""Least spread of a figure as `vector` gives it; of the others, and of shares, `FLOOR`."""
FLOOR = 0.05


def vector(arrays: NDArray[Any], image: Mapping[str, Floats], spec: DiseaseSpec) -> tuple[tuple[str, ...], Floats]:
    """Names (d,) and values (n, d) of what a measure looks at, on scales where what devices do to them is about even.

    Args:
        arrays: (n, *input.shape) in the spec's unit.
        image: Figures of `image_quality.figures`, each (n,); a table has none that are used.
    """
    if spec.input.layout == "table":
        values = np.asarray(arrays, dtype=np.float64)
        return tuple(f"column_{k}" for k in range(values.shape[1])), np.sign(values) * np.log1p(np.abs(values))
    width = spec.input.range[1] - spec.input.range[0]
    out: dict[str, Floats] = {}
    for name, of in image.items():
        value = np.asarray(of, dtype=np.float64)
        if name in ("sd", "noise_sd"):
            value = np.log(np.maximum(value, 0) / width + TINY)
        elif name in ("sharpness", "clipped_low", "clipped_high"):
            value = np.log(np.maximum(value, 0) + 0.01)
        elif name == "blockiness":
            value = np.log1p(np.maximum(value, -0.9))
        elif name in UNITS:
            value = value / width
        out[name] = value
    # Too little of these shows on a scale of ratios, too much on one of differences.
    noise, sd = np.asarray(image["noise_sd"], dtype=np.float64), np.asarray(image["sd"], dtype=np.float64)
    out |= {
        "noise_of_range": 4 * noise / width,
        "steps": np.asarray(image["sharpness"], dtype=np.float64),
        "noise_share": noise / (sd + TINY * width),
    }
    out |= arrangement.figures(arrays, spec)
    return tuple(out), np.stack(list(out.values()), axis=1)


def smoothness(arrays: NDArray[Any] | Filtered, spec: DiseaseSpec) -> Floats:
    """(n,) how near a sample comes to one without any fine structure, where `fineness` ends: 20 for one that is smooth throughout.

    Blur has an end that noise has not, so in a distance that looks both ways it hides behind the noise of devices. The energy that rounding to
    whole values adds is taken off: it would be the fine structure of a picture that has lost its own, and more of it the stronger the blur.

    Args:
        arrays: (n, *input.shape) in the spec's unit, of a spec that is no table.

    Source:
        Sheppard, Proceedings of the London Mathematical Society 1897: rounding adds a twelfth of the squared step to a variance.
    """
    of = arrays if isinstance(arrays, Filtered) else Filtered(arrays, spec)
    rounding = 2 / 12 if np.dtype(spec.input.dtype).kind in "iu" else 0.0  # of a difference of two values, in squared steps
    near, far = np.zeros(of.n), np.zeros(of.n)
    for x, step in zip(of.along, of.steps, strict=True):
        if x.shape[2] > 2:
            near += mean_square(step) - rounding
            far += mean_square(x[:, :, 2:] - x[:, :, :-2]) - rounding
    least = np.full(of.n, 0.25)  # of differences over those of twice the distance, where all is smooth
    share = np.maximum(np.divide(near, far, out=least.copy(), where=far > 0), least)
    return 1 / (SMOOTH + np.log2(share))


def floors(names: Sequence[str]) -> Floats:
    """(d,) the least spread that a figure is taken to have."""
    return np.array([1e-3 if name.startswith("column_") else FLOORS.get(name, FLOOR) for name in names])


def beyond_range(values: NDArray[Any], spec: DiseaseSpec) -> list[str]:
    """For a row of a table, which of its columns lie outside the spec's range; other layouts saturate at it, and have none."""
    if spec.input.layout != "table":
        return []
    low, high = spec.input.range
    wrong = np.flatnonzero((values < low) | (values > high))
    named = [spec.input.columns[k] if k < len(spec.input.columns) else f"column {k + 1}" for k in wrong[:NAMED].tolist()]
    return (
        [f"{OUTSIDE}: {', '.join(named)}{' and others' if len(wrong) > NAMED else ''} outside the spec's range, {low:g} to {high:g}"] if named else []
    )


@dataclass(frozen=True)
class Outside:
    """What is still inside.

    Args:
        image: Over figures of the sample; None where there is no measure.
        network: Over the columns of the projected embedding; None where there is none.
        smoothest: Largest `smoothness`; None where there is no limit.
        check: `JUDGED`, or why not.
    """

    spec: DiseaseSpec
    image: Likeness | None = None
    network: Likeness | None = None
    smoothest: float | None = None
    check: str = JUDGED
    _factor: float = field(default=1.0)

    @classmethod
    def of(cls, package: ModelPackage) -> Outside:
        """As the package has it. Raises DataError for measures of another spec."""
        spec, raw = package.spec, package.outside
        if not spec.abstain.outside:
            return cls(spec, check=SWITCHED_OFF)
        if raw is None:
            return cls(spec, check=OLDER)
        where = f"{package.name}/outside.json"
        image, network = (None if raw.get(name) is None else Likeness.from_dict(raw[name], where=where) for name in ("image", "network"))
        if image is not None and image.names != vector(*_example(spec), spec)[0]:
            raise DataError("measure of another spec", where=where, got=f"{len(image.names)} figures")
        smoothest = raw.get("smoothest")
        if not (smoothest is None or (isinstance(smoothest, float) and 0 < smoothest < np.inf)):
            raise DataError("not a limit of smoothness", where=where, allowed="a number above 0")
        return cls(spec, image, network, smoothest, TOO_FEW if image is None else JUDGED, spec.abstain.outside)

    def reasons(self, arrays: NDArray[Any], figures: Mapping[str, Floats], acquisition: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """For each of n samples, why it should get no decision before the model is asked. Of figures no value is told, only
        their names; of acquisition parameters the value and its limits.

        Args:
            arrays, figures: As `vector` takes them.
            acquisition: `acq_*` of each sample.
        """
        out = [self._acquisition(facts) + beyond_range(row, self.spec) for facts, row in zip(acquisition, arrays, strict=True)]
        if self.image is not None:
            names, rows = vector(arrays, figures, self.spec)
            for n, distance in enumerate(self.image.distance(rows)):
                if not distance <= self._factor * self.image.limit:
                    out[n].append(self._words(self.image, names, rows[n], float(distance)))
        if self.smoothest is not None:
            for n in np.flatnonzero(~(smoothness(arrays, self.spec) <= self._factor * self.smoothest)).tolist():
                out[n].append(BLURRED)
        return out

    def far(self, columns: Floats) -> NDArray[np.bool_]:
        """(n,) whether an embedding (n, k), projected as the reference's, lies outside. One that was not given is not judged."""
        if self.network is None:
            return np.zeros(len(columns), bool)
        return np.isfinite(columns).all(axis=1) & ~(self.network.distance(columns) <= self._factor * self.network.limit)

    def _acquisition(self, facts: Mapping[str, Any]) -> list[str]:
        out = []
        for name, (low, high) in self.spec.abstain.acquisition.items():
            value = facts.get(name)
            if isinstance(value, int | float) and not low <= value <= high:
                out.append(f"{ACQUISITION}: {name.removeprefix('acq_')} {value:g}, allowed {low:g} to {high:g}")
        return out

    def _words(self, measure: Likeness, names: tuple[str, ...], row: Floats, distance: float) -> str:
        if not np.isfinite(row).all():
            return f"{OUTSIDE}: figures that are not finite"
        shares, offsets = measure.shares(row)
        said: list[str] = []
        bad: list[str] = []
        for k in np.argsort(-shares)[:NAMED].tolist():
            end, words = QUALITY.get(names[k], ("", ""))
            if end == ("high" if offsets[k] > 0 else "low"):
                bad.append(words)
            else:
                kind, _, number = names[k].partition("_")
                said.append(_column(self.spec, int(number)) if kind == "column" else WORDS[kind])
        far = f"{min(distance / (self._factor * measure.limit), 1e6):.3g} times as far from the samples that the model was tested on as allowed"
        if bad and names[int(shares.argmax())] in QUALITY:
            return f"{LOW_QUALITY}: {', '.join(dict.fromkeys(bad))}; {far}"
        return f"{OUTSIDE}: {far}; most by {', '.join(dict.fromkeys(said + bad))}"


def told(spec: DiseaseSpec, samples: int, groups: int) -> str:
    """What `check` will say of a package that is made of so many samples and groups (as far as they can be read)."""
    if not spec.abstain.outside:
        return SWITCHED_OFF
    return JUDGED if samples >= LEAST and groups >= LEAST_GROUPS else TOO_FEW


def sentence(check: str, spec: DiseaseSpec) -> str:
    """For card and report."""
    kind = "Rows" if spec.input.layout == "table" else "Images" if spec.input.layout != "window" else "Recordings"
    if check == JUDGED:
        return f"{kind} unlike those of training and test get no decision: the server measures how far each one lies from them."
    return f"{kind} of something else are answered as if they were in order, for nothing tells them apart ({check})."


def to_json(image: Likeness | None, network: Likeness | None, smoothest: float | None = None) -> str:
    """The content of `outside.json`."""
    return json.dumps({"image": image and image.to_dict(), "network": network and network.to_dict(), "smoothest": smoothest})


def _column(spec: DiseaseSpec, number: int) -> str:
    return spec.input.columns[number] if number < len(spec.input.columns) else f"column {number + 1}"


def _example(spec: DiseaseSpec) -> tuple[NDArray[Any], Mapping[str, Floats]]:
    from components.core import image_quality

    low, high = spec.input.range
    sample = np.linspace(low, high, int(np.prod(spec.input.shape)), dtype=np.float32).reshape(1, *spec.input.shape)
    return sample, image_quality.figures(sample, spec)
