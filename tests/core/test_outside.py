"""What lies outside of what a model was tested on, and what does not; and that a check which is off says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core import image_quality, outside
from components.core.errors import DataError
from components.core.outside import JUDGED, LOW_QUALITY, OLDER, OUTSIDE, SWITCHED_OFF, TOO_FEW, Outside
from components.core.spec import DiseaseSpec
from components.register import outside_measure
from tests.benchmarks import foreign
from tests.serving.small_package import CATALOGUE, build, lung_nodule, reference

SPECS = {path.stem: DiseaseSpec.from_toml(path) for path in sorted(CATALOGUE.glob("*.toml"))}
N = {"volume": 180}  # samples of a reference; 60 elsewhere


def samples(spec: DiseaseSpec, n: int, seed: int) -> np.ndarray:
    """Things of one kind: a bright disc, ball or swing in the middle of a darker field, each with its own place, size and light; rows of a table
    whose columns go together."""
    rng = np.random.default_rng(seed)
    low, high = spec.input.range
    shape = spec.input.shape
    if spec.input.layout == "table":
        size = rng.normal(2, 0.2, (n, 1))
        x = np.exp(size * np.linspace(0.2, 1.5, shape[0]) + rng.normal(0, 0.1, (n, shape[0])))
        return x.clip(low, high).astype(spec.input.dtype)
    if spec.input.layout == "window":
        t = np.arange(shape[1]) / 40
        swing = rng.uniform(150, 250, (n, shape[0], 1)) * np.sin(
            2 * np.pi * rng.uniform(0.8, 1.2, (n, 1, 1)) * t + rng.uniform(0, 6, (n, shape[0], 1))
        )
        return (swing + np.array([0, 980, 0] * 3)[: shape[0], None] + rng.normal(0, 20, (n, *shape))).astype(np.float32)
    space = shape[1:]
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in space), indexing="ij")
    x = np.empty((n, *shape))
    for k in range(n):
        middle = rng.normal(0, 0.06, len(space))
        inside = np.sqrt(sum((p - m) ** 2 for p, m in zip(places, middle, strict=True))) < rng.uniform(0.4, 0.6)
        field = 0.3 + 0.35 * inside + 0.05 * rng.normal() + 0.05 * places[-2]
        x[k] = field * (np.array([1.3, 1.0, 0.8])[:, None, None] if shape[0] == 3 else 1) + rng.normal(0, 0.02, shape)
    y = low + x.clip(0, 1) * (high - low)
    return y.astype(np.float32) if np.dtype(spec.input.dtype).kind == "f" else np.rint(y).astype(spec.input.dtype)


class Some:
    """What `outside_measure.learn` reads of a dataset: three samples of each person (one volume), two devices."""

    def __init__(self, spec: DiseaseSpec, n: int) -> None:
        self._x = samples(spec, n, 1)
        each = 1 if spec.input.layout == "volume" else 3
        group = [f"p{k // each}" for k in range(n)]
        self.manifest = pd.DataFrame({"split": ["train"] * n, "group_id": group, "device_key": [f"d{k % 2}" for k in range(n)]})

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self._x[rows]


@cache
def learned(disease: str) -> Outside:
    spec = SPECS[disease]
    measure = outside_measure.learn(spec, Some(spec, N.get(spec.input.layout, 60)))  # type: ignore[arg-type]
    assert measure is not None
    return Outside(spec, measure)


def reasons(check: Outside, x: np.ndarray, acquisition: Mapping[str, Any] | None = None) -> list[list[str]]:
    return check.reasons(x, image_quality.figures(x, check.spec), [acquisition or {}] * len(x))


@pytest.mark.parametrize("disease", SPECS)
def test_own_kind_is_inside_and_other_kinds_are_out_for_every_disease(disease: str) -> None:
    """New samples of the kind stay in; noise, one colour, another arrangement, and what the conversion makes of another disease do not."""
    check = learned(disease)
    spec, rng = check.spec, np.random.default_rng(2)
    assert sum(map(bool, reasons(check, samples(spec, 100, 3)))) <= 5
    if spec.input.layout == "table":
        others = {"another order": rng.permuted(samples(spec, 40, 4), axis=1), "one number": np.full((40, *spec.input.shape), 7.0)}
    else:
        others = {kind: foreign.noise(kind, 40, spec, rng) for kind in foreign.NOISE if (kind, spec.input.layout) != ("grey noise", "volume")}
        if spec.input.layout != "window":
            others["a recording"] = foreign.brought(samples(SPECS["parkinson-fog"], 40, 4), SPECS["parkinson-fog"], spec)
        if spec.input.layout != "window" and spec.input.shape[-1] > 8:
            if spec.input.layout != "volume":  # the conversion puts every head into the middle of its grid, so that none comes moved
                others["moved"] = foreign.spoilt("shifted", samples(spec, 40, 4), 4, spec)
            others["inverted"] = foreign.spoilt("inverted", samples(spec, 40, 4), 4, spec)
    for kind, x in others.items():
        found = reasons(check, x.astype(spec.input.dtype))
        assert np.mean([bool(r) for r in found]) >= 0.95, (kind, sum(map(bool, found)))
        assert all(r.startswith((f"{OUTSIDE}: ", f"{LOW_QUALITY}: ")) for one in found for r in one)


def test_the_reason_names_what_is_bad_or_what_is_other() -> None:
    """Far more noise is low quality; a field with its thing elsewhere lies elsewhere; and no reason holds a value of the sample."""
    check = learned("lung-nodule")
    x = samples(check.spec, 20, 5)
    noisy = reasons(check, np.rint(x + np.random.default_rng(0).normal(0, 400, x.shape)).astype(np.int16))
    assert all(one[0].startswith("low quality: more noise") for one in noisy)
    elsewhere = reasons(check, foreign.spoilt("shifted", x, 4, check.spec))
    assert all("lies" in one[0] and one[0].startswith(OUTSIDE) for one in elsewhere)


def test_blur_is_low_quality_for_every_kind_of_image() -> None:
    """Three pixels of it, where the samples have noise of their own; sharp ones are not called blurred."""
    for disease in ("lung-nodule", "skin-lesion", "breast-metastasis"):
        spec = SPECS[disease]
        check, x = Outside(spec, smoothest=outside_measure.smoothest(spec, Some(spec, 60))), samples(spec, 40, 8)  # type: ignore[arg-type]
        assert reasons(check, foreign.spoilt("blurred", x, 2, spec)) == [[outside.BLURRED]] * 40, disease
        assert sum(map(bool, reasons(check, x))) <= 2


@pytest.mark.parametrize("disease", ["skin-lesion", "lung-nodule", "parkinson-fog", "alzheimer-smri"])
def test_smoothness_knows_its_ends(disease: str) -> None:
    """A ramp and one colour have no fine structure; white noise has as much of it as of any other."""
    spec = SPECS[disease]
    axis = np.arange(spec.input.shape[-1])
    ramp = np.broadcast_to(axis if spec.input.dtype != "float32" else axis / 200, (2, *spec.input.shape)).astype(spec.input.dtype)
    white = foreign.noise("white noise", 8, spec, np.random.default_rng(0))
    assert np.allclose(outside.smoothness(ramp, spec), 20)
    assert np.allclose(outside.smoothness(np.full_like(ramp, 1), spec), 20)
    assert np.allclose(outside.smoothness(white, spec), 1 / outside.SMOOTH, rtol=0.1)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(["skin-lesion", "breast-metastasis", "retinopathy-grading"]), st.integers(0, 2**31), st.floats(10, 60), st.floats(0.3, 2))
def test_more_blur_is_never_less_smooth_whatever_is_rounded(disease: str, seed: int, contrast: float, noise: float) -> None:
    """Of a picture that is kept as whole values, blur of 0.75 to 6 pixels: each blur is at least as smooth as the one before it, and as it would be
    without rounding from three pixels on."""
    spec, rng = SPECS[disease], np.random.default_rng(seed)
    side = np.linspace(-1, 1, spec.input.shape[-1])
    disc = (side[:, None] ** 2 + side**2 < rng.uniform(0.1, 0.4)) * contrast
    x = 100 + disc + rng.normal(0, noise, (1, *spec.input.shape))
    found = [outside.smoothness(foreign.spoilt("blurred", np.rint(x), k, spec), spec)[0] for k in range(foreign.STRENGTHS)]
    assert all(after >= 0.98 * before for before, after in pairwise(found)), found
    assert min(found[2:]) > 8, found


def test_another_device_of_what_training_simulates_is_inside() -> None:
    """Draws of the simulated devices that the measure did not see."""
    for disease in ("lung-nodule", "skin-lesion", "alzheimer-smri"):
        check = learned(disease)
        x = outside_measure.as_other_devices(samples(check.spec, 100, 6), check.spec, 99)
        assert np.mean([bool(r) for r in reasons(check, np.asarray(x))]) <= 0.1, disease


def test_a_value_that_is_not_finite_is_never_inside() -> None:
    check = learned("lung-nodule")
    x = samples(check.spec, 2, 7)
    table = image_quality.figures(x, check.spec) | {"mean": np.array([np.nan, np.inf])}
    assert all(one and one[0].startswith(OUTSIDE) for one in check.reasons(x, table, [{}, {}]))
    assert not check.far(np.array([[np.nan]])).any()  # without a measure of the network, or an embedding, nothing is known


@pytest.mark.parametrize("value", [99999.0, -1.0, 300.5])
def test_a_row_beyond_the_spec_range_is_outside_and_names_its_column(value: float) -> None:
    """Whatever its measure says, also where there is none; a value at the end of the range is in it."""
    raw = SPECS["breast-cytology"].model_dump()
    raw["input"] |= {"range": (0, 300), "shape": (3,), "columns": ("age", "psa", "volume")}
    spec = DiseaseSpec.model_validate(raw)
    check = Outside(spec, check=TOO_FEW)
    row = np.array([[60, value, 40], [60, 300, 0]], np.float32)
    assert check.reasons(row, {}, [{}, {}]) == [["outside the training distribution: psa outside the spec's range, 0 to 300"], []]


def test_acquisition_limits_of_the_spec_name_the_parameter_and_what_is_allowed() -> None:
    spec = lung_nodule(abstain={"acquisition": {"acq_slice_thickness_mm": (0.4, 3)}})
    check, (x,) = Outside(spec, check=OLDER), samples(spec, 1, 6)[None]
    assert reasons(check, x, {"acq_slice_thickness_mm": 5.0}) == [["acquisition outside the spec: slice_thickness_mm 5, allowed 0.4 to 3"]]
    assert reasons(check, x, {"acq_slice_thickness_mm": 3.0}) == [[]]
    assert reasons(check, x) == [[]]


def test_every_package_says_whether_it_is_judged(tmp_path: Path) -> None:
    """Switched off, too old, too few, judged; and a measure of another spec is refused."""
    table, spec = reference({"a" * 16: ("SYN", "ONE")}), lung_nodule(abstain={})
    measure = learned("lung-nodule").image
    good = outside.to_json(measure, None).encode()

    def check(name: str, spec: DiseaseSpec, more: dict[str, Any]) -> str:
        return Outside.of(build(tmp_path / name, spec, table, more=more)).check

    assert check("off", lung_nodule(abstain={"outside": 0}), {"outside.json": good}) == SWITCHED_OFF
    assert check("old", spec, {}) == OLDER
    assert check("few", spec, {"outside.json": outside.to_json(None, None).encode()}) == TOO_FEW
    assert check("good", spec, {"outside.json": good}) == JUDGED
    other = json.loads(good)
    other["image"]["names"][0] = "another"
    with pytest.raises(DataError, match="measure of another spec"):
        check("other", spec, {"outside.json": json.dumps(other).encode()})


def test_card_and_report_say_when_nothing_is_judged() -> None:
    spec = SPECS["lung-nodule"]
    assert outside.told(spec, 29, 29) == outside.told(spec, 500, 4) == TOO_FEW
    assert outside.told(spec, 30, 5) == JUDGED
    assert outside.told(lung_nodule(), 500, 500) == SWITCHED_OFF
    assert "answered as if they were in order" in outside.sentence(TOO_FEW, spec)
    assert "get no decision" in outside.sentence(JUDGED, spec)


def test_too_few_samples_or_people_give_no_measure() -> None:
    spec = SPECS["lung-nodule"]
    assert outside_measure.learn(spec, Some(spec, 29)) is None  # type: ignore[arg-type]
    one = Some(spec, 60)
    one.manifest["group_id"] = "p"
    assert outside_measure.learn(spec, one) is None  # type: ignore[arg-type]
