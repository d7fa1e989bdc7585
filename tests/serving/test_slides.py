"""Whole slides at a predictor: which tiles are looked at, and one answer for all of them, by hand and by the forest that the package brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from components.core import aggregates
from components.core.errors import DataError
from components.core.imaging.slides import open_slide
from components.core.spec import DiseaseSpec
from serving import bodies
from serving.bodies.body import Body
from serving.predictor import Predictor, Query, Tiles
from serving.slide_view import view
from tests.serving import small_bodies
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import TILES, disease
from tests.serving.small_package import GAIN, MIDDLE, build, reference

DEVICES = {"0123456789abcdef": ("MAKER", "MODEL")}


def spec_of(method: str, **options: Any) -> DiseaseSpec:
    return DiseaseSpec.model_validate(disease(TILES).model_dump() | {"aggregate": {"method": method, "options": options}})


def queries(content: bytes | Path) -> list[Query]:
    return bodies.read("image/tiff", Body(content), disease(TILES), PSEUDONYMISER)


def by_hand(arrays: NDArray[Any]) -> NDArray[np.float64]:
    """P(tumour) of each tile."""
    means = (arrays.astype(np.float64) / 255).reshape(len(arrays), -1).mean(1)
    return 1 / (1 + np.exp(-GAIN * (means - MIDDLE)))


def test_the_tiles_over_tissue_and_no_other_are_read_as_they_are_stored(tmp_path: Path):
    """Tissue covers rows and columns 96 to 384 of 480: 6 x 6 tiles of 48."""
    found = queries(small_bodies.slide(tmp_path))
    assert len(found) == 1
    tiles = found[0].tiles
    assert tiles is not None
    assert tiles.arrays.shape == (36, 3, 48, 48)
    assert sorted({float(v) for v in tiles.places.ravel()}) == [120.0, 168.0, 216.0, 264.0, 312.0, 360.0]
    with open_slide(tmp_path / "slide.tif", pixels=10**9) as slide:
        expected = np.asarray(slide.read(96, 144, slide.levels[0], 48, 48))
    at = next(n for n, place in enumerate(tiles.places.tolist()) if place == [120.0, 168.0])
    np.testing.assert_array_equal(tiles.arrays[at], expected.transpose(2, 0, 1))
    same = queries(tmp_path / "slide.tif")[0]
    assert same.tiles is not None
    np.testing.assert_array_equal(same.tiles.arrays, tiles.arrays)


def test_a_slide_gets_one_answer_from_all_its_tiles(tmp_path: Path):
    package = build(tmp_path / "package", spec_of("mean"), reference(DEVICES, patients=2))
    found = queries(small_bodies.slide(tmp_path))
    answers = Predictor(package, None).answer(found)
    assert found[0].tiles is not None
    p = by_hand(found[0].tiles.arrays)
    assert 0.02 < p.mean() < 0.98, "the tiles must matter"
    assert answers[0]["probabilities"]["tumour"] == pytest.approx(p.mean(), abs=1e-4)
    assert (len(answers), answers[0]["part"]) == (1, {"tiles": 36})
    assert answers[0]["decision"] == ("tumour" if p.mean() >= 0.4 else "normal")


def test_the_forest_of_the_package_answers_for_the_slide(tmp_path: Path):
    spec = spec_of("heatmap-forest", trees=8)
    draw = np.random.default_rng(0)
    rows = []
    for group in range(12):
        for x in range(6):
            for y in range(6):
                score = float(np.clip(draw.normal(0.75 if group % 2 and x < 3 else 0.15, 0.1), 0, 1))
                rows.append({"group_id": f"g{group}", "label": int(score > 0.5), "group_label": group % 2, "place": [24.0 + 48 * x, 24.0 + 48 * y],
                             "score_normal": 1 - score, "score_tumour": score})  # fmt: skip
    forest = aggregates.build(spec)
    forest.fit(pd.DataFrame(rows), seed=1)
    forest.save(tmp_path)
    more: dict[str, Path | bytes] = {"aggregate.safetensors": tmp_path / "aggregate.safetensors"}
    package = build(tmp_path / "package", spec, reference(DEVICES, patients=2), more=more)
    found = queries(small_bodies.slide(tmp_path))
    assert found[0].tiles is not None
    p = by_hand(found[0].tiles.arrays)
    table = pd.DataFrame({"group_id": "x", "place": found[0].tiles.places.tolist(), "score_normal": 1 - p, "score_tumour": p})
    expected = float(forest.apply(table)["score_tumour"].iloc[0])
    assert Predictor(package, None).answer(found)[0]["probabilities"]["tumour"] == pytest.approx(max(expected, 1e-6), abs=1e-4)
    without = build(tmp_path / "without", spec, reference(DEVICES, patients=2))
    answer = Predictor(without, None).answer(found)[0]
    assert (answer["abstain"], answer["decision"], answer["probabilities"]) == (True, None, {})
    assert answer["reasons"] == ["this model answers for tiles only: its package holds no aggregate"]


def test_a_slide_that_claims_more_than_it_holds_or_is_cut_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="unpack to more than is believable"):
        queries(small_bodies.slide(tmp_path, claims=40_000))
    whole = small_bodies.slide(tmp_path)
    with pytest.raises(DataError, match="not a slide that OpenSlide reads"):
        queries(whole[: len(whole) // 2])


def test_a_slide_is_explained_by_the_probability_of_each_tile_where_it_lies(tmp_path: Path):
    """6 x 6 tiles of 48 pixels need no shrinking: the picture is the tissue, the heat constant on each tile."""
    predictor = Predictor(build(tmp_path / "package", spec_of("mean"), reference(DEVICES, patients=2)), None)
    (query,) = queries(small_bodies.slide(tmp_path))
    assert query.tiles is not None
    found = predictor.explain(query)
    assert found is not None
    assert found.heat is not None
    assert (found.method, found.classes, found.heat.shape) == ("probability of each tile", ("tumour",), (288, 288))
    with open_slide(tmp_path / "slide.tif", pixels=10**9) as slide:
        expected = np.asarray(slide.read(96, 96, slide.levels[0], 288, 288))
    seen = predictor.slide(query, found.answered)
    np.testing.assert_array_equal(seen.picture, expected.transpose(2, 0, 1))
    for p, (x, y) in zip(by_hand(query.tiles.arrays), query.tiles.places.tolist(), strict=True):
        np.testing.assert_allclose(found.heat[int(y) - 120 : int(y) - 72, int(x) - 120 : int(x) - 72], p, atol=1e-4)


def test_a_slide_of_any_number_of_tiles_is_a_picture_that_a_browser_takes():
    """Shrunk by whole pixels; where there are gaps between tiles there is glass, and no heat."""
    places = np.array([[24.0, 24.0], [24.0 + 48 * 99, 24.0 + 48 * 49]])
    tiles = Tiles(np.stack([np.full((3, 48, 48), level, np.uint8) for level in (10, 200)]), places)
    seen = view(tiles, np.array([0.25, 0.75]), 48.0)
    assert seen.picture.shape == (3, 50 * 6, 100 * 6)
    assert (seen.picture[0, 0, 0], seen.picture[0, -1, -1], seen.picture[0, 0, -1]) == (10, 200, 245)
    assert (seen.heat[0, 0], seen.heat[-1, -1], seen.heat[0, -1]) == (0.25, 0.75, 0)
    assert view(tiles, None, 48.0).heat.max() == 0
