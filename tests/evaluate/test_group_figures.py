"""Figures that need groups and their samples: lesions, the reader, pictures."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec
from components.evaluate import group_figures

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "breast-metastasis.toml"


def spec_of(**changes: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["gates"] |= {"min_per_class": 5}
    return DiseaseSpec.from_json(json.dumps(raw | changes))


def samples(slides: int = 20, *, seed: int = 0) -> pd.DataFrame:
    """Slides of 6 x 6 tiles of 100 microns; every second one has a lesion of 2 x 2 tiles, found at 0.9, and each a false alarm at 0.3."""
    rows = []
    for s in range(slides):
        for y in range(6):
            for x in range(6):
                inside = s % 2 == 1 and y < 2 and x < 2
                p = 0.9 - 0.01 * (x + y) if inside else 0.3 if (y, x) == (5, 5) else 0.01
                rows.append(
                    {"sample_id": f"{s}-{y}-{x}", "group_id": f"s{s:02d}", "split": "test", "score_normal": 1 - p, "score_tumour": p,
                     "place": [100.0 * x, 100.0 * y], "lesion_id": f"l{s}" if inside else None}
                )  # fmt: skip
    return pd.DataFrame(rows)


def predictions(slides: int = 20) -> pd.DataFrame:
    """The model is right but for two slides, the reader but for two others."""
    rows = []
    for split in ("val", "test"):
        for s in range(slides):
            label = s % 2
            p = (0.9 if label else 0.1) if s not in (0, 1) else 0.5 - 0.1 * (label - 0.5)
            reader = float(label) if s not in (2, 3) else 0.5 - 0.1 * (label - 0.5)
            rows.append(
                {"sample_id": f"s{s:02d}", "group_id": f"s{s:02d}", "device_key": f"d{s % 4 // 2}", "split": split, "label": label, "abstain": False,
                 "score_normal": 1 - p, "score_tumour": p, "reader_score": reader}
            )  # fmt: skip
    return pd.DataFrame(rows)


def empty() -> dict[str, Any]:
    return {"metrics": {}, "devices": {"d0": {}, "d1": {}}}


def test_lesions_found_before_any_false_alarm_are_all_found():
    figures = empty()
    group_figures.add(spec_of(), figures, predictions(), samples())
    assert figures["metrics"]["froc"]["value"] == 1
    assert figures["metrics"]["froc"]["n"] == 10
    assert list(figures["froc"]) == ["0.25", "0.5", "1", "2", "4", "8"]
    assert {key: d["froc"]["value"] for key, d in figures["devices"].items()} == {"d0": 1, "d1": 1}


def test_lesions_below_the_false_alarms_are_found_at_one_alarm_a_slide():
    """Every slide has one alarm, so from rate 1 upward all lesions count and below it none does."""
    table = samples()
    table.loc[table["lesion_id"].notna(), "score_tumour"] = 0.2
    found = group_figures.lesions(spec_of(), table)
    assert [found[rate].value for rate in ("0.25", "0.5", "1", "2", "4", "8")] == [0, 0, 1, 1, 1, 1]
    assert found["mean"].value == pytest.approx(4 / 6)


def test_model_and_reader_together_are_better_than_each():
    facts, plot = group_figures.beside_reader(spec_of(), predictions()) or ({}, {})
    assert facts["both"]["value"] == 1
    assert facts["model"]["value"] < 1
    assert facts["reader"]["value"] < 1
    assert facts["both_minus_model"]["value"] == pytest.approx(1 - facts["model"]["value"])
    assert facts["fitted_on"] == 20
    assert "model" in plot["svg"]


def test_without_a_reader_nothing_is_said_of_one():
    assert group_figures.beside_reader(spec_of(), predictions().drop(columns="reader_score")) is None
    assert group_figures.beside_reader(spec_of(), predictions().assign(reader_score=np.nan)) is None


def test_the_picture_shows_tiles_where_they_are():
    from PIL import Image

    table = samples(2)
    svg = group_figures.picture(table[table["group_id"] == "s01"], "score_tumour")
    found = re.search(r"base64,([^\"]+)", svg)
    assert found
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")).astype(int)
    assert image.shape[1] / image.shape[0] == pytest.approx(13 / 6)
    tile = image.shape[0] // 6
    assert image[0, 0, 0] - image[0, 0, 1] > 100  # red in the upper left
    assert image[-1, 0, 0] - image[-1, 0, 1] < 20  # pale in the lower left
    assert image[0, 7 * tile, 2] - image[0, 7 * tile, 0] > 50  # blue in the right panel's upper left


def test_pictures_name_the_surest_and_the_least_sure_slide():
    found = group_figures.pictures(spec_of(), predictions(), samples())
    assert [plot["title"] for plot in found] == ["Heat-map, surest", "Heat-map, least sure", "Heat-map, highest normal"]
    assert "s01" in found[1]["words"]
    assert "s00" in found[2]["words"]


def test_a_metric_that_slides_do_not_have_is_one_line():
    with pytest.raises(SpecError, match="no such metric of groups"):
        group_figures.add(spec_of(metrics=["dice"]), empty(), predictions(), samples())
