"""An answer in words: for every disease, every reason, every status; and never an interval beside a figure that it excludes."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from components.core import exact, outside
from pipelines import catalog
from pipelines.answer_text import answer_text
from serving import predictor
from serving.said import DEVICES, device, positive, said

FEW = settings(max_examples=300, derandomize=True, deadline=None, database=None)
REASONS = [
    predictor.WITHOUT_PROFILE, predictor.STALE_PROFILE, predictor.CONSTANT, predictor.TILES_ONLY, predictor.STORE_AWAY, predictor.NOT_TOLD,
    predictor.POOLED + predictor.WITHOUT_PROFILE, predictor.UNLIKE, outside.UNSEEN, f"{outside.OUTSIDE}: mean -1080, tested -1070 to 400",
]  # fmt: skip


def answer(name: str = "lung-nodule", p: float = 0.7, decided: int = -1, **more: Any) -> dict[str, Any]:
    spec = catalog.load(name)
    classes = spec.target.classes
    spread = {c: (1 - p) / max(1, len(classes) - 1) for c in classes} | {classes[decided]: p}
    return {
        "model": name, "version": "1", "digest": "0" * 64, "disease": name, "synthetic": False, "probabilities": spread, "decision": classes[decided],
        "abstain": False, "reasons": [], "positive": positive(spec), "request_id": "0" * 32, "operating_point": {"kind": "highest"},
        "device": {"key": "a" * 16, "manufacturer": None, "model": None, "status": "known", "profile": "ok"},
        "uncertainty": {"entropy": 0.3, "coverage": 0.9, "set": [classes[decided]], "observed": None, "low": None, "high": None},
    } | more  # fmt: skip


@pytest.mark.parametrize("name", catalog.names())
@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_every_disease_reaches_page_and_terminal(name: str, reason: str):
    nothing = answer(name, abstain=True, probabilities={}, decision=None, uncertainty=None, reasons=[reason])
    whole = f"{reason[:1].upper()}{reason[1:]}."
    assert said(nothing).lines == (whole,)
    for told in (nothing, answer(name, reasons=[reason])):
        text = answer_text([told])
        assert whole in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 80
        assert f"request    {'0' * 32}" in text


@pytest.mark.parametrize("status", ["known", "unseen", "stale", "unknown"])
def test_every_state_of_a_device_is_said(status: str):
    assert (
        device(answer(device={"key": "unknown", "manufacturer": None, "model": None, "status": status}))
        == f"Device without a name: {DEVICES[status]}."
    )
    assert (status == "known") == (DEVICES[status] == "the model was tested on it")


@FEW
@given(st.floats(0, 1), st.integers(20, 500), st.data())
def test_an_interval_never_stands_beside_a_figure_that_it_excludes(p: float, n: int, data: st.DataObject):
    k = data.draw(st.integers(0, n))
    groups = data.draw(st.integers(1, n))
    low, high = exact.interval(k, n, groups)
    seen = {"from": 0.0, "to": 1.0, "n": n, "k": k, "groups": groups, "grouping": "patient", "share": k / n, "low": low, "high": high, "of": "test"}
    sure = {"entropy": 0.3, "coverage": 0.9, "set": None, "observed": seen, "low": None, "high": None}
    first, second = said(answer(p=p, uncertainty=sure)).lines[:2]
    assert f"{k} w" in second
    assert f"of {n} test samples" in second.lower()
    figure = re.search(r"Probability of malignant: (over|under)? ?(\d+)", first)
    assert figure is not None
    told = float(figure[2]) / 100
    ends = re.search(r"interval (\d+) % to (\d+)|at (least|most) (\d+)", second)
    if ends is not None and groups >= 5:
        least, most = (int(ends[1]), int(ends[2])) if ends[1] else (int(ends[4]), 100) if ends[3] == "least" else (0, int(ends[4]))
        if "by what was observed" not in first:
            assert least / 100 - 0.0101 <= told <= most / 100 + 0.0101
        else:
            own = re.search(r"by the model, (?:over |under )?(\d+) % by what", first)
            assert own is not None
            assert least <= int(own[1]) <= most
            assert not low <= p <= high


def test_what_is_known_only_of_another_probability_is_not_said_of_this_one():
    seen = {"from": 0.8, "to": 1.0, "n": 40, "k": 40, "groups": 40, "grouping": "patient", "share": 1.0, "low": 0.9, "high": 1.0, "of": "test"}
    sure = {"entropy": 0.3, "coverage": None, "set": None, "observed": seen, "low": None, "high": None}
    assert said(answer(p=0.6, uncertainty=sure)).lines == ("Probability of malignant: 60 %.",)


def test_sets_in_words():
    def lines(names: list[str] | None, decision: str = "malignant") -> str:
        sure = {"entropy": 0.3, "coverage": 0.9, "set": names, "observed": None, "low": None, "high": None}
        return " ".join(said(answer(uncertainty=sure, decision=decision)).lines)

    assert "It cannot rule out benign (with 90 % confidence)." in lines(["benign", "malignant"])
    assert "It rules out the other classes (with 90 % confidence)." in lines(["malignant"])
    assert "Hardly any test sample of malignant got so low a probability of it." in lines(["benign"])
    assert "more clearly of it than this one" in lines([])
    assert "rule" not in lines(None)


def test_a_recording_is_summed_up_in_stretches():
    windows = [
        answer("parkinson-fog", p=0.9, decided=1 if n in (3, 4, 7) else 0, part={"window": n, "start_s": n * 1.28}, request_id=f"{'0' * 32}-{n}")
        for n in range(131)
    ]
    windows[100] |= {"abstain": True, "decision": None, "probabilities": {}, "reasons": ["a gap in the clock"], "uncertainty": None}
    lines = answer_text(windows).splitlines()
    assert lines[0] == "windows    131: 127 no-freeze, 3 freeze, 1 no answer"
    assert any(" ".join(line.split()) == "3-4 begin at 3.8 to 5.1 s: freeze, freeze 90 %" for line in lines)
    assert any("100  begins at 128.0 s: no answer, a gap in the clock" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert len(lines) < 20
    assert f"request    {'0' * 32}" in lines
