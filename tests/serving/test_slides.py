"""Whole slides at a predictor: which tiles are looked at, and one answer for all of them, by hand and by the forest that the package brings."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

from components.core import aggregates
from components.core.errors import DataError
from components.core.imaging.slides import open_slide
from components.core.inference_log.events import RESPONSE
from components.core.spec import DiseaseSpec
from serving import bodies, slide_answer
from serving.bodies import slide
from serving.bodies.body import Body
from serving.cloud_events import Event
from serving.collected import Collected
from serving.predictor import Predictor, Query, Tiles
from serving.queries import from_document, from_raw, from_tensor
from tests.serving import small_bodies
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import TILES, disease
from tests.serving.small_package import GAIN, MIDDLE, build, reference

DEVICES = {"0123456789abcdef": ("MAKER", "MODEL")}


def spec_of(method: str, **options: Any) -> DiseaseSpec:
    return DiseaseSpec.model_validate(disease(TILES).model_dump() | {"aggregate": {"method": method, "options": options}})


def queries(content: bytes | Path) -> list[Query]:
    return bodies.read("image/tiff", Body(content), disease(TILES), PSEUDONYMISER)


def test_a_resolution_is_told_by_header_field_or_parameter(tmp_path: Path):
    """Of a slide that does not say it: the same tiles as of one that does; none, or one that cannot be meant, is refused by name."""
    spec, whole = disease(TILES), queries(small_bodies.slide(tmp_path))[0]
    with tifffile.TiffFile(tmp_path / "slide.tif", mode="r+b") as tiff:
        for page in tiff.pages:
            page.tags["ResolutionUnit"].overwrite(1)  # pyright: ignore[reportAttributeAccessIssue]
    mute = (tmp_path / "slide.tif").read_bytes()
    text = base64.b64encode(mute).decode()

    def by_header(mpp: str) -> list[Query]:
        return from_raw(mute, {"content-type": "image/tiff", "x-dxflow-mpp": mpp}, spec, PSEUDONYMISER)

    told = [
        by_header("1.0"), from_document({"instances": [{"file_base64": text, "mpp": 1.0}]}, spec, PSEUDONYMISER),
        from_tensor([1], "BYTES", [text], None, {"mpp": 1.0}, spec, PSEUDONYMISER),
    ]  # fmt: skip
    assert whole.tiles is not None
    for found in told:
        assert found[0].tiles is not None
        np.testing.assert_array_equal(found[0].tiles.arrays, whole.tiles.arrays)
    with pytest.raises(DataError, match="no resolution"):
        queries(mute)
    for mpp, says in (("353", "a resolution beyond"), ("0.001", "a resolution beyond"), ("nan", "header X-Dxflow-Mpp: not a number")):
        with pytest.raises(DataError, match=says):
            by_header(mpp)
    with pytest.raises(DataError, match="a resolution that the slide contradicts"):
        bodies.read("image/tiff", Body(small_bodies.slide(tmp_path), mpp=0.5), spec, PSEUDONYMISER)


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


COLD, HOT = (1 / (1 + np.exp(-GAIN * (np.mean(colour) / 255 - MIDDLE))) for colour in ((70, 30, 55), (120, 50, 95)))
"""P(tumour) of the two kinds of tissue of `small_bodies.corner`, by hand."""


def corner_heat() -> NDArray[np.float64]:
    """(80, 112): 8 pixels a tile."""
    heat = np.zeros((80, 112))
    heat[16:64, 8:104] = COLD
    heat[16:32, 80:104] = HOT
    return heat


def test_the_heat_of_a_slide_lies_in_the_corner_where_its_tumour_is(tmp_path: Path):
    """Pixel by pixel what each tile says, computed by hand; none on the glass."""
    assert (COLD < 0.1, HOT > 0.9) == (True, True)
    predictor = Predictor(build(tmp_path / "package", spec_of("mean"), reference(DEVICES, patients=2)), None)
    (query,) = queries(small_bodies.slide(tmp_path, image=small_bodies.corner()))
    found = predictor.explain(query)
    assert found is not None
    assert (found.method, found.classes, found.pixel_um) == ("tile probabilities", ("tumour",), 6.0)
    assert found.heat is not None
    np.testing.assert_allclose(found.heat, corner_heat(), atol=1e-4)
    assert found.overlay is not None
    from PIL import Image

    shown = np.asarray(Image.open(io.BytesIO(found.overlay))).astype(int)
    shown = shown[:: shown.shape[0] // 80, :: shown.shape[1] // 112]
    plain = query.tiles.view.astype(int)  # type: ignore[union-attr]
    assert np.array_equal(shown[:16], plain[:16])
    moved = np.abs(shown - plain).sum(-1)
    assert moved[16:32, 80:104].min() > 2 * moved[32:64, 8:104].max()
    assert found.answered.answer == predictor.answer([query])[0]


def test_a_slide_without_an_answer_has_no_heat_and_a_tile_has_its_own(tmp_path: Path):
    predictor = Predictor(build(tmp_path / "package", spec_of("heatmap-forest"), reference(DEVICES, patients=2)), None)  # without its forest
    (query,) = queries(small_bodies.slide(tmp_path))
    found = predictor.explain(query)
    assert found is not None
    assert (found.answered.answer["abstain"], found.heat, found.overlay) == (True, None, None)
    tile = predictor.explain(Query(query.array))
    assert tile is not None
    assert tile.heat is not None
    assert (tile.heat.shape, tile.method) == ((48, 48), "occlusion")


@pytest.mark.parametrize("shrunk", [2, 3, 16, 40])
def test_tiles_of_a_large_slide_leave_no_gap_between_them_and_the_hottest_is_never_lost(shrunk: int):
    """A view whose pixels are no part of a tile's side, or larger than one."""
    rows, columns = np.mgrid[:50, :70]
    places = np.stack([columns.ravel(), rows.ravel()], 1) * 48.0 + 24.0
    view = np.zeros((-(-400 // shrunk), -(-560 // shrunk), 3), np.uint8)
    values = np.full(len(places), 0.25)
    hot = 33 * 70 + 61
    values[hot] = 0.75
    found = slide_answer.heat(Tiles(np.empty(0), places, 48.0, view, 6.0 * shrunk), values)
    assert found[: 400 // shrunk, : 560 // shrunk].min() == 0.25  # a last pixel that is hardly covered may stay cold
    assert found.max() == 0.75
    row, column = np.argwhere(found == 0.75).mean(0)
    assert (row * shrunk / 8, column * shrunk / 8) == pytest.approx((33, 61), abs=max(1.0, shrunk / 8))


def test_the_view_of_a_large_slide_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slide, "MOST_VIEW_SIDE", 40)
    (query,) = queries(small_bodies.slide(tmp_path, image=small_bodies.corner()))
    assert query.tiles is not None
    assert (query.tiles.view.shape, query.tiles.view_um) == ((27, 38, 3), 18.0)


def test_how_sure_a_slide_is_comes_from_slides_and_without_any_nothing_is_said(tmp_path: Path):
    """A reference of tiles gives tiles their interval; a slide has one only where the package knows how slides came out."""
    tiles = reference(DEVICES, patients=240).rename(columns={"score_benign": "score_normal", "score_malignant": "score_tumour"})
    draw = np.random.default_rng(0)
    label = np.arange(120) % 2
    p = np.clip(np.where(label, 0.9, 0.6) + draw.normal(0, 0.05, 120), 0.01, 0.99)  # the hottest tile of a healthy slide is hot, too
    rows = {"group_id": [f"g{n}" for n in range(120)], "split": "test", "label": label, "score_normal": 1 - p, "score_tumour": p}
    out = io.BytesIO()
    pd.DataFrame(rows).to_parquet(out, index=False)
    more: dict[str, dict[str, Any]] = {"with": {"groups.parquet": out.getvalue()}, "without": {}}
    (query,) = queries(small_bodies.slide(tmp_path, image=small_bodies.corner()))
    sure = {}
    for name, files in more.items():
        whole, tile = Predictor(build(tmp_path / name, spec_of("max"), tiles, more=files), None).answer([query, Query(query.array)])
        sure[name] = whole["uncertainty"]
        assert tile["uncertainty"]["observed"] is not None
    assert sure["without"]["observed"] is sure["without"]["set"] is None
    assert sure["without"]["entropy"] == sure["with"]["entropy"] > 0
    assert sure["with"]["set"] == ["tumour"]
    assert sure["with"]["observed"]["low"] > 0.5


def test_a_collector_knows_an_answer_about_a_slide_from_one_about_a_tile(tmp_path: Path):
    package = build(tmp_path / "package", spec_of("mean"), reference(DEVICES, patients=2))
    found = queries(small_bodies.slide(tmp_path))
    answers = [one | {"request_id": "0" * 32} for one in Predictor(package, None).answer([*found, Query(found[0].array)])]
    event = Event("1", "kserve", RESPONSE, package.disease, None, 1, {"predictions": answers})
    assert [r["source"] for r in Collected([package], PSEUDONYMISER).records(event, "key", "2026-01-01T00:00:00+00:00")] == ["slide", "cloudevent"]


def test_a_slide_that_claims_more_than_it_holds_or_is_cut_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="unpack to more than is believable"):
        queries(small_bodies.slide(tmp_path, claims=40_000))
    whole = small_bodies.slide(tmp_path)
    with pytest.raises(DataError, match="not a slide that OpenSlide reads"):
        queries(whole[: len(whole) // 2])
