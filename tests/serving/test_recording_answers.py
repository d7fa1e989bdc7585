"""Each answer about a recording says how much of it no window judges, and why: by v1, v2 and in `dxflow predict`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError
from pipelines.answer_text import answer_text
from serving import queries, wire
from serving.model import outputs
from serving.predictor import Predictor
from tests.ingest.clocks import Made, cut, walk, wild
from tests.ingest.made import PSEUDONYMISER
from tests.serving.small_bodies import GAIT, package

CLOCK = "a clock value that fits no neighbour"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(package(tmp_path_factory.mktemp("package") / GAIT, GAIT), None)


def asked(predictor: Predictor, made: Made, version: str, **options: Any) -> list[dict[str, Any]]:
    """The answers as a client reads them."""
    data = made.text().encode()
    if version == "v1":
        headers = {"content-type": "text/csv"} | {f"x-dxflow-{name}": str(value) for name, value in options.items()}
        answers = predictor.answer(queries.from_raw(data, headers, predictor.spec, PSEUDONYMISER))
        return json.loads(wire.v1_reply(answers).body)["predictions"]
    found = queries.from_tensor([1], "BYTES", [data], None, {"content_type": "text/csv", **options}, predictor.spec, PSEUDONYMISER)
    whole = {output.name: output for output in outputs(predictor.answer(found), predictor)}
    return [json.loads(bytes(one)) for one in whole["answer"].values]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_one_wild_stamp_is_told_and_costs_two_of_44_windows(predictor: Predictor, version: str):
    """A minute at 64 Hz, one stamp of 3,840 wild: the other 42 windows are answered as without it."""
    clean, made = walk(60, 64), walk(60, 64)
    wild(made, [1500], [999_999_999.0])
    plain, found = asked(predictor, clean, version), asked(predictor, made, version)
    assert len(plain) == len(found) == 44
    left_out = [a["part"]["window"] for a in found if a["reasons"] == [CLOCK]]
    assert len(left_out) == 2
    for a, b in zip(plain, found, strict=True):
        if a["part"]["window"] not in left_out:
            assert (a["decision"], a["part"]) == (b["decision"], b["part"])
            assert list(a["probabilities"].values()) == pytest.approx(list(b["probabilities"].values()), abs=1e-3)
    assert all(a["recording"] == found[0]["recording"] for a in found)
    told = found[0]["recording"]
    assert (told["seconds"], told["windows"], told["windows_missing"]) == (60.0, 42, 2)
    assert told["not_judged_s"][CLOCK] == pytest.approx(1.275)
    assert told["judged_s"] + sum(told["not_judged_s"].values()) == pytest.approx(told["seconds"], abs=0.005)
    assert plain[0]["recording"]["windows_missing"] == 0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_one_window_tells_of_the_whole_recording(predictor: Predictor, version: str):
    made = walk(30, 64)
    cut(made, 900, 64)
    (one,) = asked(predictor, made, version, window=3)
    assert one["part"]["window"] == 3
    assert one["recording"]["not_judged_s"]["a gap in time"] == pytest.approx(1.0, abs=0.01)
    assert one["recording"]["windows_missing"] > 0


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("rate", [3.0, 4.9, 6.4, 640.0])
def test_a_rate_that_cannot_show_a_freeze_is_refused_by_its_number(predictor: Predictor, version: str, rate: float):
    with pytest.raises(DataError, match=rf"sampled at {rate:g}\S* Hz where the model wants 40 \(32 to 320\)"):
        asked(predictor, walk(60, rate), version)


def test_a_recording_without_a_window_says_where_its_time_went(predictor: Predictor):
    made = walk(20, 64)
    made.rows[::200, 4] = np.nan
    with pytest.raises(DataError, match=r"no window: .*got 0\.0 of 20\.0 s judged; not judged: shorter than a window 19\.\d s, values that are no"):
        asked(predictor, made, "v1")


def test_the_command_prints_it(predictor: Predictor):
    made = walk(30, 64)
    wild(made, [1000], [0.0])
    answers = [answer | {"request_id": f"{'0' * 32}-{n}"} for n, answer in enumerate(asked(predictor, made, "v1"))]
    text = " ".join(answer_text(answers).split())
    assert "recording 25.5 of 30.0 s judged in 18 windows, 2 missing; not judged: before the first whole window 2.5 s, " in text
    assert f"{CLOCK} 1.3 s" in text


def test_an_answer_about_anything_else_tells_of_no_recording(predictor: Predictor):
    array = np.linspace(-500, 500, 9 * 204).reshape(9, 204).tolist()
    (answer,) = predictor.answer(queries.from_document({"instances": [{"array": array}]}, predictor.spec, PSEUDONYMISER))
    assert "recording" not in answer
