"""Whole slides: which tiles become samples, what they are labelled, and what goes to quarantine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from components.core.dataset import Dataset
from components.core.errors import SpecError
from components.core.imaging import camelyon_xml, slides, tissue
from components.core.imaging.camelyon_xml import Polygon
from components.core.imaging.errors import NotUsable
from components.core.imaging.slides import open_slide
from components.core.spec import DiseaseSpec
from components.ingest.slide_sampling import LEAST_NORMAL, NORMAL_TILES, TUMOUR_TILES, drawn
from components.ingest.step import ingest
from tests.ingest.made import PSEUDONYMISER, ROOT, hidden

PINK, WHITE = (200, 90, 160), (245, 245, 245)


def spec_of(**changes: dict[str, Any]) -> DiseaseSpec:
    """breast-metastasis with tiles of 32 pixels and any damage allowed."""
    raw = json.loads(DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "breast-metastasis.toml").to_json())
    raw["input"] |= {"shape": [3, 32, 32]}
    raw["limits"] |= {"quarantine_share": 1}
    for part, values in changes.items():
        raw[part] |= values
    return DiseaseSpec.from_json(json.dumps(raw))


def picture(side: int = 512) -> np.ndarray:
    """Glass with a square of tissue from a quarter to three quarters; red tells the column, green the row."""
    out = np.full((side, side, 3), WHITE, np.uint8)
    middle = slice(side // 4, 3 * side // 4)
    out[middle, middle] = PINK
    return out


def write(path: Path, pixels: np.ndarray, *, mpp: float | None = 1.0, levels: int = 2, tile: int = 64, **tags: Any) -> Path:
    """A pyramidal TIFF without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for n in range(levels):
            own = {} if mpp is None else {"resolution": (1e4 / mpp / 2**n, 1e4 / mpp / 2**n), "resolutionunit": "CENTIMETER"}
            tiff.write(
                pixels[:: 2**n, :: 2**n], tile=(tile, tile), photometric="rgb", compression="deflate", metadata=None, software=False,
                subfiletype=1 if n else 0, **own, **(tags if n == 0 else {}),
            )  # fmt: skip
    return path


def box(x0: float, y0: float, x1: float, y1: float, **more: Any) -> Polygon:
    return Polygon(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float), **more)


def annotate(path: Path, *polygons: Polygon) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(camelyon_xml.render(list(polygons), comment="drawn by a test"))


def run(source: Path, out: Path, spec: DiseaseSpec) -> Dataset:
    ingest(spec, str(source), dataset=out / "dataset", features=out / "features", workers=1)
    return Dataset(out / "dataset")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test slides of 512 pixels, of which 256 x 256 (8 x 8 tiles) are tissue; the lesion covers its upper left 4 x 4 tiles, with a hole."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("test_001", "test_002"):
        write(folder / "testing" / "images" / f"{name}.tif", picture())
    annotate(folder / "testing" / "lesion_annotations" / "test_001.xml", box(128, 128, 256, 256), box(192, 192, 224, 224, excluded=True))
    (folder / "testing" / "reference.csv").write_text("test_001,Tumor,IDC,Macro\nTest_002.tif,Normal,None,None\n")
    (folder / "reader.csv").write_text("image,score\ntest_001,0.9\ntest_002,0.2\n")
    for n in range(4):
        write(folder / "training" / "normal" / f"normal_{n:03d}.tif", picture(), extratags=[(271, "s", 0, f"Maker {n % 2}", True)])
        write(folder / "training" / "tumor" / f"tumor_{n:03d}.tif", picture())
        annotate(folder / "training" / "lesion_annotations" / f"tumor_{n:03d}.xml", box(128, 128, 384, 256))
    return folder


@pytest.fixture(scope="module")
def found(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("ingested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(out / "home"))
        patch.setenv("DXFLOW_KEY", "a key that only the tests know")
        return run(source, out, spec_of())


def of(found: Dataset, path: str) -> Any:
    return found.manifest[found.manifest["group_id"] == PSEUDONYMISER.id("slide-file", path)]


def test_a_test_slide_keeps_every_tile_over_tissue_and_no_glass(found: Dataset):
    rows = of(found, "testing/images/test_001.tif")
    assert (rows["split"] == "test").all()
    assert {tuple(v) for v in rows["place"]} == {(128 + 32 * i + 16.0, 128 + 32 * j + 16.0) for i in range(8) for j in range(8)}
    assert (found.read(rows.index.to_numpy()) == np.array(PINK)[:, None, None]).all()


def test_a_tile_is_tumour_by_half_of_its_centre_and_a_hole_is_not(found: Dataset):
    rows = of(found, "testing/images/test_001.tif")
    tumour = {tuple(v) for v, label in zip(rows["place"], rows["label"], strict=True) if label == 1}
    expected = {(128 + 32 * i + 16.0, 128 + 32 * j + 16.0) for i in range(4) for j in range(4)} - {(208.0, 208.0)}
    assert tumour == expected
    assert rows["lesion_id"].nunique() == 1
    assert set(map(tuple, rows[rows["lesion_id"].notna()]["place"])) == expected
    assert (rows["group_label"] == 1).all()
    assert np.allclose(rows["reader_score"], 0.9)
    other = of(found, "testing/images/test_002.tif")
    assert (other["group_label"] == 0).all()
    assert other["lesion_id"].isna().all()
    assert not other["label"].any()


def test_training_slides_are_dealt_whole_into_train_and_val(found: Dataset):
    rows = found.manifest
    assert (rows.groupby("group_id")["split"].nunique() == 1).all()
    by = rows.groupby(["split", "group_label"])["group_id"].nunique()
    assert by.to_dict() == {("test", 0): 1, ("test", 1): 1, ("train", 0): 2, ("train", 1): 2, ("val", 0): 2, ("val", 1): 2}
    assert (rows["acq_microns_per_pixel"] == 1).all()
    assert rows["device_key"].nunique() == 3  # two makers, and slides without one
    assert not rows["synthetic"].any()


def test_tiles_come_at_the_wanted_resolution(tmp_path: Path):
    """0.25 microns at level 0, 0.5 and 1.0 below; asked for 1 micron the third level answers, for 0.8 the second is shrunk."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[..., 0] = np.arange(512)[None] // 2
    path = write(tmp_path / "a.tif", pixels, mpp=0.25, levels=3)
    with open_slide(path, pixels=10**9) as slide:
        level, factor = slide.level_for(1.0)
        assert (level.number, factor) == (2, 1.0)
        assert np.array_equal(slide.tile(64, 0, level, factor, 32)[0, :, 0], pixels[0, 64 : 64 + 32 * 4 : 4, 0])
        level, factor = slide.level_for(0.8)
        assert (level.number, round(factor, 6)) == (1, 1.6)
        ramp = slide.tile(0, 0, level, factor, 32)[0, :, 0].astype(int)
        assert abs(int(ramp[-1]) - 31 * 3.2 / 2) < 2
        level, factor = slide.level_for(0.26)  # 4 % off: taken as it is
        assert (level.number, factor) == (0, 1.0)
        with pytest.raises(NotUsable, match="coarser"):
            slide.level_for(0.2)


def test_what_was_not_scanned_is_white(tmp_path: Path):
    """A tile over the slide's edge: its own pixels, then white, whichever way it is read."""
    path = write(tmp_path / "a.tif", np.full((256, 256, 3), PINK, np.uint8), mpp=1.0)
    with open_slide(path, pixels=10**9) as slide:
        level, factor = slide.level_for(1.0)
        tile = slide.tile(240, 0, level, factor, 32)
        assert (tile[:, :16] == PINK).all()
        assert (tile[:, 16:] == 255).all()
        assert np.array_equal(tile, np.asarray(slide.read(240, 0, level, 32, 32)))
        assert (slide.tile(0, 0, level, factor, 32) == PINK).all()


def test_a_training_slide_gives_a_balanced_draw():
    few = np.r_[np.ones(10, int), np.zeros(5000, int)]
    assert [int((few[drawn(few, "train", "g")] == k).sum()) for k in (0, 1)] == [LEAST_NORMAL, 10]
    some = np.r_[np.ones(100, int), np.zeros(5000, int)]
    assert [int((some[drawn(some, "train", "g")] == k).sum()) for k in (0, 1)] == [100, 100]
    many = np.r_[np.ones(3000, int), np.zeros(5000, int)]
    assert [int((many[drawn(many, "train", "g")] == k).sum()) for k in (0, 1)] == [NORMAL_TILES, TUMOUR_TILES]
    assert np.array_equal(drawn(few, "train", "g"), drawn(few, "train", "g"))
    assert not np.array_equal(drawn(few, "train", "g"), drawn(few, "train", "h"))
    assert len(drawn(few, "val", "g")) == len(few)


def test_otsu_splits_two_heaps_and_glass_alone_is_no_tissue():
    heaps = np.r_[np.full(700, 0.1), np.full(300, 0.6)].astype(np.float32)
    assert 0.1 < tissue.otsu(heaps) < 0.6
    assert not tissue.tissue(np.full((20, 20, 3), 250, np.uint8)).any()
    noise = np.random.default_rng(0).integers(243, 248, (50, 50, 3)).astype(np.uint8)
    assert not tissue.tissue(noise).any()


BAD = {
    "no resolution": lambda p: write(p, picture(), mpp=None),
    "no resolution ": lambda p: write(p, picture(), mpp=352.8),  # 72 dpi, which nobody has measured
    "a resolution beyond 0.05 to 20 microns a pixel": lambda p: told(write(p, picture(), mpp=None), 0.01),
    "a resolution that the slide contradicts": lambda p: told(write(p, picture()), 0.5),
    "not a slide that OpenSlide reads, or a damaged one": lambda p: p.write_bytes(b"II*\0 not a slide"),
    "empty file": lambda p: p.write_bytes(b""),
    "scanned coarser than input.microns_per_pixel": lambda p: write(p, picture(), mpp=2.0),
    "no tissue found": lambda p: write(p, np.full((512, 512, 3), WHITE, np.uint8)),
    "slide over limits.pixels_per_image": lambda p: write(p, np.full((1024, 1024, 3), WHITE, np.uint8)),
    "damaged TIFF: a checksum of its pixels does not hold": lambda p: cut(
        write(p, np.random.default_rng(0).integers(60, 200, (512, 512, 3)).astype(np.uint8))
    ),
    "a slide whose stored tiles are over 16 million pixels": lambda p: write(p, picture(), tile=4112),
}


def told(path: Path, mpp: float) -> None:
    """Tell a slide's resolution in the table beside it."""
    with open(path.parent / "mpp.csv", "a") as table:
        table.write(f"{path.name},{mpp}\n")


def cut(path: Path) -> None:
    """Zeros over a stretch of tiles in the middle, directory and both ends kept: a download that broke."""
    data = bytearray(path.read_bytes())
    start = len(data) // 4
    data[start : start + len(data) // 2] = bytes(len(data) // 2)
    path.write_bytes(data)


def test_a_slide_of_one_level_and_one_whose_table_tells_its_resolution_are_read(tmp_path: Path):
    """As the same slide with a pyramid and a resolution of its own: sizes, tiles and places. 72 dpi, which nobody has measured, count as none."""
    folder = tmp_path / "in" / "testing" / "images"
    write(folder / "whole.tif", picture())
    write(folder / "one.tif", picture(), levels=1)
    told(write(folder / "mute.tif", picture(), mpp=None), 1.0)
    told(write(folder / "dpi.tif", picture(), mpp=352.8, levels=1), 1.0)
    (tmp_path / "in" / "testing" / "reference.csv").write_text("".join(f"{name},Normal\n" for name in ("whole", "one", "mute", "dpi")))
    found = run(tmp_path / "in", tmp_path, spec_of())
    arrays = found.read(range(len(found)))
    by_slide = {}
    for group, rows in found.manifest.groupby("group_id"):
        places = [tuple(place) for place in rows["place"]]
        by_slide[group] = {place: arrays[n].tobytes() for place, n in zip(places, rows.index, strict=True)}
    assert len(by_slide) == 4
    assert [len(one) for one in by_slide.values()] == [64] * 4
    assert len({tuple(sorted(one.items())) for one in by_slide.values()}) == 1
    assert set(found.manifest["acq_microns_per_pixel"]) == {1.0}


def test_a_large_slide_of_one_level_is_refused_by_what_it_would_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slides, "WHOLE_PIXELS", 512 * 512 - 1)
    one = write(tmp_path / "one.tif", picture(), levels=1)
    with pytest.raises(NotUsable, match="a large slide without a pyramid"), open_slide(one, pixels=10**9):
        pass


def test_every_damaged_slide_is_named_with_its_reason(tmp_path: Path):
    """One slide of each kind of damage beside two good ones; a slide is used whole or not at all."""
    folder = tmp_path / "in" / "testing"
    (folder / "images").mkdir(parents=True)
    for n, make in enumerate(BAD.values()):
        make(folder / "images" / f"bad_{n:02d}.tif")
    for name in ("good", "contrary", "unmarked", "odd", "foreign"):
        write(folder / "images" / f"{name}.tif", picture())
    annotate(folder / "lesion_annotations" / "contrary.xml", box(128, 128, 200, 200))
    annotate(folder / "lesion_annotations" / "foreign.xml", box(128, 128, 200, 200))
    text = (folder / "lesion_annotations" / "foreign.xml").read_text().replace('PartOfGroup="Tumor"', 'PartOfGroup="Stroma"')
    (folder / "lesion_annotations" / "foreign.xml").write_text(text)
    write(folder / "images" / "good_mask.tif", picture())
    (folder / "reference.csv").write_text("image,label\ngood,Normal\ncontrary,Normal\nunmarked,Tumor\nodd,Perhaps\n")
    found = run(tmp_path / "in", tmp_path, spec_of(limits={"pixels_per_image": 600 * 600}))
    stems = {hidden(path.relative_to(tmp_path / "in").as_posix()): path.stem for path in (tmp_path / "in").rglob("*.*")}
    named = {stems[file]: reason for file, reason in zip(found.quarantine["file"], found.quarantine["reason"], strict=True)}
    assert {f"bad_{n:02d}": named.get(f"bad_{n:02d}") for n in range(len(BAD))} == {f"bad_{n:02d}": reason.strip() for n, reason in enumerate(BAD)}
    assert {name: named[name] for name in ("contrary", "unmarked", "odd", "foreign", "good_mask")} == {
        "contrary": "annotations on a slide that is called normal",
        "unmarked": "a tumour slide without annotations: its tiles have no labels",
        "odd": "a slide label that is neither tumour nor normal",
        "foreign": "an annotation group that is neither tumour nor exclusion",
        "good_mask": "a drawing over a slide",
    }
    assert set(found.manifest["group_id"]) == {PSEUDONYMISER.id("slide-file", "testing/images/good.tif")}


def test_annotations_that_cannot_be_meant_are_refused():
    good = camelyon_xml.render([box(0, 0, 10, 10), box(2, 2, 4, 4, excluded=True)], comment="x").encode()
    assert [p.excluded for p in camelyon_xml.parse(good)] == [False, True]
    for bad, reason in (
        (b"<a>", "do not parse"),
        (b"<LidcReadMessage/>", "other than ASAP"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><ASAP_Annotations>&a;</ASAP_Annotations>', "entities"),
        (good.replace(b'X="10.00"', b'X="nan"'), "encloses nothing"),
        (good.replace(b'X="10.00"', b'X="ten"'), "no numbers"),
        (good.replace(b'Type="Polygon"', b'Type="Cloud"'), "no area"),
    ):
        with pytest.raises(NotUsable, match=reason):
            camelyon_xml.parse(bad)


def test_camelyon16s_own_group_names_are_known():
    text = camelyon_xml.render([box(0, 0, 10, 10), box(2, 2, 4, 4, excluded=True)])
    older = text.replace('PartOfGroup="Tumor"', 'PartOfGroup="_0"').replace('PartOfGroup="Exclusion"', 'PartOfGroup="_2"')
    assert [p.excluded for p in camelyon_xml.parse(older.encode())] == [False, True]


def test_half_a_centre_is_the_line():
    """A lesion up to x = 16 covers half of the centre (8 to 24) of a 32-pixel tile at 0."""
    corners = np.array([[0, 0]])
    for edge, share in ((8, 0.0), (16, 0.5), (24, 1.0)):
        assert camelyon_xml.cover([box(-50, -50, edge, 50)], corners, 32)[0][0] == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize(("part", "values"), [("split", {"given": False}), ("input", {"dtype": "int16"}), ("input", {"shape": [3, 32, 48]})])
def test_a_spec_that_slides_cannot_serve_is_one_line(part: str, values: dict[str, Any], source: Path, tmp_path: Path):
    with pytest.raises(SpecError, match="whole-slide"):
        run(source, tmp_path, spec_of(**{part: values}))
