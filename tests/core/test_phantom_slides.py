"""The lymph-slide phantom: real formats, known outlines, the same bytes, synthetic everywhere."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import DataError, SpecError
from components.core.imaging import camelyon_xml
from components.core.phantoms.lymph_slides import PHANTOM_VERSION, generate, halved, place, simulate
from components.core.phantoms.lymph_slides_scanners import KNOWN, SCANNERS, UNSEEN, scanner
from components.core.phantoms.lymph_slides_tissue import TUMOUR


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "p"
    generate(folder, patients=18, seed=3, workers=2)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_openslide_reads_both_formats_as_what_they_are(made: Path):
    import openslide

    vendors = {}
    for path in [*made.rglob("*.svs"), *made.rglob("*.tif")]:
        with openslide.OpenSlide(path) as slide:
            vendors.setdefault(slide.properties["openslide.vendor"], set()).add(path.suffix)
            assert slide.level_count == 3
            assert "SYNTHETIC" in slide.properties["tiff.ImageDescription"]
            device = next(s for s in SCANNERS if s.manufacturer == slide.properties["tiff.Make"])
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(device.mpp)
            if device.aperio:
                assert slide.properties["aperio.ScanScope ID"] == device.serial
    assert vendors == {"aperio": {".svs"}, "generic-tiff": {".tif"}}


def test_the_layout_is_that_of_camelyon16_and_every_scanner_has_both_kinds_in_both_parts(made: Path):
    names = [p.stem for p in sorted([*made.rglob("*.svs"), *made.rglob("*.tif")])]
    assert len(names) == len(set(names)) == 18
    assert {p.stem for p in made.rglob("*.xml")} <= set(names)
    with open(made / "testing" / "reference.csv") as handle:
        truth = {row[0]: row[1] for row in csv.reader(handle)}
    assert set(truth) == {p.stem for p in (made / "testing" / "images").iterdir()}
    assert {name for name, word in truth.items() if word == "Tumor"} == {p.stem for p in (made / "testing" / "lesion_annotations").iterdir()}
    assert {place(n, 3) for n in range(18)} == {(s, tumour, test) for s in range(3) for tumour in (False, True) for test in (False, True)}
    with open(made / "reader.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["image"] for row in rows} == set(names)
    assert {row["synthetic"] for row in rows} == {"1"}
    assert json.loads((made / "phantom.json").read_text())["synthetic"] is True


def test_outlines_enclose_the_metastasis():
    """Of the map of compartments, what is tumour lies in the outlines, and nothing else does but the holes."""
    device = scanner("halden")
    _, found = simulate(seed=5, unseen=False, number=4, tumour=True, device=device)
    corners = np.stack(np.meshgrid(np.arange(0, 760, 4), np.arange(0, 760, 4)), axis=-1).reshape(-1, 2)
    polygons = [camelyon_xml.Polygon(o) for o in found.outlines] + [camelyon_xml.Polygon(h, excluded=True) for h in found.holes]
    covered, _, touched = camelyon_xml.cover(polygons, corners, 4.0)
    tumour = found.kinds[corners[:, 1] // 4, corners[:, 0] // 4] == TUMOUR
    assert len(touched) == len(found.outlines)
    assert ((covered > 0.5) == tumour).mean() > 0.995
    assert tumour.sum() > 100


def test_same_seed_same_bytes_whatever_the_workers(made: Path, tmp_path: Path):
    generate(tmp_path / "again", patients=18, seed=3, workers=1)
    assert digests(tmp_path / "again") == digests(made)
    generate(tmp_path / "other", patients=1, seed=4, workers=1)
    one = "training/normal/normal_001.svs"
    assert digests(tmp_path / "other")[one] != digests(made)[one]


def test_what_was_drawn_is_frozen():
    """A change here is another phantom: raise PHANTOM_VERSION and measure its fairness again."""
    pixels, found = simulate(seed=1, unseen=False, number=3, tumour=True, device=scanner("corvex"))
    assert PHANTOM_VERSION == 1
    assert pixels.shape == (1536, 1536, 3)
    assert len(found.corners) == FROZEN[0]
    assert [round(float(v), 2) for v in pixels.mean((0, 1))] == pytest.approx(FROZEN[1], abs=0.05)


FROZEN = (4487, [196.52, 165.22, 214.35])


def test_halving_takes_the_mean_of_four():
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    small = halved(pixels)
    assert small.shape == (2, 2, 3)
    assert small[0, 0, 0] == (0 + 3 + 15 + 18 + 2) // 4


def test_the_unseen_scanner_is_in_no_collection_and_other_folders_are_left_alone(made: Path, tmp_path: Path):
    assert not set(UNSEEN) & set(KNOWN)
    assert json.loads((made / "phantom.json").read_text())["devices"] == list(KNOWN)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="something else"):
        generate(tmp_path, patients=1, seed=0)
    with pytest.raises(SpecError, match="no such simulated device"):
        generate(tmp_path / "x", patients=1, seed=0, devices=["ct"])
