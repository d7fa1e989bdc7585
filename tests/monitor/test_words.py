"""What an alarm says: values that were seen, never the end of a bin, and words for the machine that made the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core import acquisition, acquisition_changes, image_quality
from components.core.figure_words import Words, number
from components.core.spec import DiseaseSpec
from components.monitor import words
from components.monitor.causes import Cause
from components.monitor.detect import Change, Detector, Judged
from components.monitor.reference import Reference
from components.monitor.sketch import Sketch, hashes
from components.monitor.watched import ABSTAIN, OF_SLIDE

CATALOGUE = sorted((Path(__file__).parents[2] / "pipelines" / "diseases").glob("*.toml"))
SPECS = [DiseaseSpec.from_toml(path) for path in CATALOGUE]
CT, GAIT = Words("CT", "image", "HU"), Words("sensor", "window", "mg")
DEVICE = "d" * 16


def judged(name: str, before: Any, after: Any) -> Judged:
    """One look at one feature of one device."""
    noise = np.random.default_rng(0)
    sides = [{name: np.asarray(values), "other": noise.normal(size=len(values))} for values in (before, after)]
    reference = Reference.of(sides[0], [DEVICE] * len(before), list(range(len(before))))
    sketch = Sketch.empty(1, 2)
    sketch.add(reference.baseline(DEVICE)[0].places, sides[1], hashes(range(len(after))))
    return Detector(reference).look({DEVICE: sketch})[DEVICE]


def said(name: str, before: Any, after: Any, of: Words = CT) -> str:
    found = [c for c in judged(name, before, after).alarm if c.feature == name]
    return words.say(found[0], of) if found else ""


VOLTAGES = np.array([100.0] * 52 + [120.0] * 48)


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        ("acq_kvp", VOLTAGES, np.full(30, 80.0), "tube voltage 80 kV instead of 100 or 120 kV"),
        ("acq_kvp", VOLTAGES, np.full(60, 120.0), "tube voltage 120 kV in 100 % (before 48 %)"),
        ("acq_kvp", VOLTAGES, np.full(60, 110.0), "tube voltage 110 kV instead of 100 or 120 kV"),
        ("acq_kvp", VOLTAGES, np.r_[np.full(30, 80.0), np.full(30, 90.0)], "tube voltage 80 to 90 kV instead of 100 or 120 kV"),
        ("acq_rows", np.tile([96.0, 128.0], 50), np.full(332, 1958.0), "height 1958 pixels instead of 96 or 128 pixels"),
        ("acq_rows", np.arange(1000.0, 1200.0), np.full(60, 1958.0), "height higher: 1958 pixels instead of 1100 pixels"),
        ("acq_rows", np.arange(1000.0, 1200.0), np.arange(2000.0, 2100.0), "height higher: above 1198 pixels instead of 1100 pixels"),
    ],
)
def test_what_a_parameter_became_is_told_by_values_that_were_seen(name: str, before: Any, after: Any, text: str) -> None:
    """80 kV throughout is no "more spread", and 1958 rows are no 128 because the reference ends there."""
    assert said(name, before, after) == text


def test_a_picture_half_a_per_cent_smaller_is_no_alarm() -> None:
    assert said("acq_rows", np.full(100, 576.0), np.full(60, 573.0)) == ""
    assert said("acq_rows", np.full(100, 576.0), np.full(60, 288.0)) == "height 288 pixels instead of 576 pixels"


def test_a_ratio_beyond_the_reference_is_a_bound() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(20, 1, 400)
    assert said("noise_sd", before, before[:100] * 3).endswith("% or more")
    exact = said("noise_sd", before, before[:100] + 0.8)
    assert exact.startswith("noise +")
    assert exact.endswith(" %")


def test_more_spread_is_said_of_what_spread_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(0, 1, 400)
    assert said("mean", before, rng.normal(0, 3, 200)) == "mean intensity more spread"
    assert said("mean", before, np.full(60, float(np.quantile(before, 0.9)))).startswith("mean intensity higher")


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    before=st.lists(st.integers(0, 400), min_size=40, max_size=120), after=st.lists(st.integers(-1000, 5000), min_size=30, max_size=60),
    name=st.sampled_from(("acq_kvp", "acq_rows", "mean", "sharpness")),
)  # fmt: skip
def test_every_number_that_is_told_was_seen(before: list[int], after: list[int], name: str) -> None:
    """Or lies between values that were: nothing is told beyond what either side holds, and no direction that neither the middle nor a share took."""
    for change in judged(name, np.array(before, float), np.array(after, float)).compared:
        if change.feature != name:
            continue
        text = words.say(change, CT)
        assert change.before is not None
        assert min(before) <= change.before <= max(before)
        assert change.after is not None
        if change.middle is not None and np.isfinite(change.middle).all():
            assert min(min(before), min(after)) <= change.middle[0] <= change.middle[1] <= max(max(before), max(after))
            assert change.middle[0] <= np.median(after) <= change.middle[1] or len(after) % 2 == 0
        if text.endswith("more spread"):
            assert np.std(after) > 0
        assert "inf" not in text
        assert "nan" not in text
        assert "e+" not in text
        if "instead of" in text and name == "acq_kvp" and len(set(after)) == 1:
            assert f"{after[0]} kV" in text


# ---- every wording for every disease ---------------------------------------------------------------------------------------------------

IMAGE_WORDS = ("brightest", "darkest", "contrast", "image", "black", "lens", "stain", "lamp", "kernel", "intensit", "saturated", "detector")
OF_A_SLIDE, OF_A_SCAN, OF_A_PHOTOGRAPH = ("stain",), ("reconstruction", "kernel"), ("lens",)


def every_sentence(spec: DiseaseSpec) -> list[str]:
    """All that an alarm can say of this disease: each figure, parameter and column in each aspect, and each cause."""
    of = Words.of(spec.input)
    columns = spec.input.columns or ("mean radius",)
    figures = columns if spec.input.layout == "table" else image_quality.names(spec)
    parameters = [n for n in acquisition.NUMBERS if spec.input.modality in acquisition.PARAMETERS[n].modalities]
    out = []
    for name in (*figures, *parameters, f"score_{spec.target.classes[0]}", f"{OF_SLIDE}score_{spec.target.classes[0]}"):
        for effect, after in ((1.0, 2.0), (-1.0, 0.5), (1.0, 1.0)):
            out += [words.say(Change(name, aspect, 0.001, effect, 1.0, after, middle=(after, after)), of) for aspect in ("location", "any", "scale")]
        out.append(words.say(Change(name, "location", 0.001, 1.0, 1.0, 2.0, middle=(2.0, np.inf)), of))
        out.append(words.say(Change(name, "missing", 0.001, 0.5, 0.0, 0.5), of))
    out.append(words.say(Change(ABSTAIN, "category", 0.001, 0.5, 0.0, 0.5, "yes"), of))
    out += [words.why([Cause(name, strength, 1.0, 1.0)], of) for name in acquisition_changes.possible(spec) for strength in (-1.0, 1.0)]
    return out


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_every_wording_fits_the_machine(spec: DiseaseSpec) -> None:
    text = "\n".join(every_sentence(spec)).replace(spec.target.classes[0], "")
    kind = spec.input.modality
    if kind in ("sensor", "tabular"):
        assert not [w for w in IMAGE_WORDS if w in text]
    if kind != "histology":
        assert not [w for w in OF_A_SLIDE if w in text]
    if kind not in ("CT", "MR", "MG", "DX"):
        assert "reconstruction" not in text
    if kind not in ("fundus", "dermoscopy"):
        assert not [w for w in OF_A_PHOTOGRAPH if w in text]
    assert "acq_" not in text
    assert "_mm" not in text
    assert "nan" not in text
    assert "inf" not in text


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_every_figure_has_words_of_its_own(spec: DiseaseSpec) -> None:
    of = Words.of(spec.input)
    names = image_quality.names(spec) if spec.input.layout != "table" else ()
    plain = [of.name(name) for name in names]
    assert len(set(plain)) == len(plain)
    assert not [name for name, told in zip(names, plain, strict=True) if "_" in told]


def test_levels_of_a_recording_have_its_unit_and_no_word_of_an_image() -> None:
    assert words.say(Change("p99", "location", 0.001, -1.0, 1415.0, 1249.0, middle=(1249.0, 1249.0)), GAIT) == (
        "highest 1 % of the signal lower: 1249 mg instead of 1415 mg"
    )
    assert words.say(Change("mean", "location", 0.001, -1.0, -1070.0, -1082.4, middle=(-1082.4, -1082.4)), CT) == (
        "mean intensity lower: -1082 HU instead of -1070 HU"
    )


@pytest.mark.parametrize(("value", "text"), [(-1080, "-1080"), (0, "0"), (0.7031, "0.703"), (576, "576"), (1e6, "1000000"), (12.34, "12.3")])
def test_numbers_are_read_aloud(value: float, text: str) -> None:
    assert number(value) == text
