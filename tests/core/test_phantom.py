"""The chest phantom: real DICOM series and marks, reproducible, marked synthetic, with scanners that differ as stated."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from components.core.errors import DataError, SpecError
from components.core.phantoms import generator, kinds
from components.core.phantoms.chest_ct import generate, simulate
from components.core.phantoms.ct_series import store
from components.core.phantoms.lidc_xml import NAMESPACE
from components.core.phantoms.nodules import draw_nodule, ratings
from components.core.phantoms.scanners import KNOWN, SCANNERS, UNSEEN, Scanner, scanner

SEED = 5
FROZEN = [[[5, 4, 2], [5, 3, 2], [5, 3, 1], [5, 4, 2]], [[1, 1, 4], [2, 1, 5], [2, 2, 5], [2, 2, 5]], [[3, 3], [3, 4], [4, 4], [3, 4]]]
N = {"n": NAMESPACE}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "known"
    generate(folder, patients=3, seed=SEED, workers=1)
    return folder


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "unseen"
    generate(folder, patients=1, seed=SEED, workers=1, unseen=True)
    return folder


def series(folder: Path) -> list[list[Any]]:
    """The data sets of each series, by ascending position."""
    folders = sorted({file.parent for file in folder.rglob("*.dcm")})
    return [sorted((pydicom.dcmread(f) for f in one.glob("*.dcm")), key=lambda d: float(d.ImagePositionPatient[2])) for one in folders]


def hounsfield(one: list[Any]) -> NDArray[np.float64]:
    return np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in one])


def made_by(one: list[Any]) -> Scanner:
    return next(s for s in SCANNERS if s.manufacturer == one[0].Manufacturer)


def digest(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_same_seed_same_bytes_with_any_number_of_workers(known: Path, tmp_path: Path):
    generate(tmp_path / "again", patients=3, seed=SEED, workers=2)
    assert digest(tmp_path / "again") == digest(known)


def test_another_seed_gives_other_images(known: Path, tmp_path: Path):
    generate(tmp_path / "other", patients=1, seed=SEED + 1, workers=1)
    mine, other = series(known)[0], series(tmp_path / "other")[0]
    assert mine[0].SeriesInstanceUID != other[0].SeriesInstanceUID
    assert not np.array_equal(mine[5].pixel_array, other[5].pixel_array)


def test_what_was_drawn_is_frozen():
    """The malignancy ratings of the default collection's first patients; a change needs a new PHANTOM_VERSION."""
    drawn = []
    for number in range(3):
        made = simulate(seed=20161, unseen=False, keys=KNOWN, number=number)
        drawn.append([[c["malignancy"] for _, c, _ in s.nodules if c is not None] for s in made.sessions])
    assert drawn == FROZEN


def test_files_say_what_the_scanner_made(known: Path, unseen: Path):
    """Through rescale, sign, bits, slice order and each transfer syntax, the files hold exactly what was simulated."""
    syntaxes = set()
    for folder, keys, hidden in ((known, KNOWN, False), (unseen, UNSEEN, True)):
        for number, one in enumerate(series(folder)):
            made = simulate(seed=SEED, unseen=hidden, keys=keys, number=number)
            s = made_by(one)
            stored = np.stack([d.pixel_array for d in one])
            expected = store(made.volume_hu, s)
            side = np.arange(expected.shape[-1]) - (expected.shape[-1] - 1) / 2
            circle = np.hypot(side[:, None], side) <= expected.shape[-1] / 2
            assert np.array_equal(stored[:, circle], expected[:, circle])
            if s.padding is not None:
                assert (stored[:, ~circle] == s.padding).all()
                assert one[0].PixelPaddingValue == s.padding
            syntaxes.add(str(one[0].file_meta.TransferSyntaxUID))
    assert len(syntaxes) == 4


def test_hounsfield_units_are_sane(known: Path):
    """Lung about -860 HU, wall about 40 HU, ribs well above, in the reconstructed circle of every known scanner."""
    for one in series(known):
        middle = hounsfield(one)[:, 64:192, 64:192]
        assert -900 < np.median(middle) < -800
        assert np.percentile(hounsfield(one), 99.5) > 100


def test_header_conventions_differ(known: Path, unseen: Path):
    headers = [(s[0], made_by(s)) for s in (*series(known), *series(unseen))]
    assert {d.PixelRepresentation for d, _ in headers} == {0, 1}
    assert len({(float(d.RescaleSlope), float(d.RescaleIntercept)) for d, _ in headers}) == 4
    assert len({d.ConvolutionKernel for d, _ in headers}) == 4
    for one in (*series(known), *series(unseen)):
        rising = int(one[0].InstanceNumber) < int(one[-1].InstanceNumber)
        assert rising == (made_by(one).numbering == "feet-first")


def test_the_unseen_scanner_is_in_no_collection(known: Path, unseen: Path):
    assert {made_by(one).key for one in series(known)} == set(KNOWN)
    assert {made_by(one).key for one in series(unseen)} == set(UNSEEN)
    assert not {one[0].PatientID for one in series(known)} & {one[0].PatientID for one in series(unseen)}


def test_everything_says_that_it_is_synthetic(known: Path, unseen: Path):
    for folder in (known, unseen):
        for one in series(folder):
            for d in one:
                assert d.SyntheticData == "YES"
                assert str(d.PatientName).startswith("SYNTHETIC^")
                assert d.PatientID.startswith("SYN")
                assert d.Manufacturer.startswith("SYNTHETIC ")
                assert d.InstitutionName == "SYNTHETIC"
        for file in folder.rglob("*.xml"):
            assert "SYNTHETIC" in file.read_text()
        assert json.loads((folder / "phantom.json").read_text())["synthetic"] is True


def test_marks_have_the_structure_of_lidc(known: Path):
    """Four readers; every mark names an image of its series at that image's position; characteristics lie on their scales."""
    for file in known.rglob("*.xml"):
        positions = {d.SOPInstanceUID: float(d.ImagePositionPatient[2]) for d in map(pydicom.dcmread, file.parent.glob("*.dcm"))}
        root = ET.fromstring(file.read_text())
        assert root.tag == f"{{{NAMESPACE}}}LidcReadMessage"
        assert root.findtext("n:ResponseHeader/n:SeriesInstanceUid", namespaces=N) == file.stem
        assert len(root.findall("n:readingSession", N)) == 4
        for roi in (*root.iterfind(".//n:roi", N), *root.iterfind(".//n:nonNodule", N)):
            assert positions[roi.findtext("n:imageSOP_UID", namespaces=N) or ""] == pytest.approx(
                float(roi.findtext("n:imageZposition", namespaces=N) or "nan")
            )
        described = [c for c in root.iterfind(".//n:characteristics", N)]
        assert described
        for characteristics in described:
            values = {child.tag.split("}")[1]: int(child.text or 0) for child in characteristics}
            assert len(values) == 9
            assert all(1 <= v <= (6 if name == "calcification" else 5) for name, v in values.items())


def test_outlines_enclose_nodules(known: Path):
    """Tissue inside an outline is brighter than the ring around it."""
    contrasts = []
    for one in series(known):
        at = {d.SOPInstanceUID: k for k, d in enumerate(one)}
        volume = hounsfield(one)
        (file,) = Path(one[0].filename).parent.glob("*.xml")
        for nodule in ET.fromstring(file.read_text()).iterfind(".//n:unblindedReadNodule", N):
            rois = nodule.findall("n:roi", N)
            if len(rois) < 3:
                continue
            roi = rois[len(rois) // 2]
            x, y = (
                np.array([int(e.findtext(f"n:{axis}", namespaces=N) or 0) for e in roi.iterfind("n:edgeMap", N)]) for axis in ("xCoord", "yCoord")
            )
            plane = volume[at[roi.findtext("n:imageSOP_UID", namespaces=N) or ""]]
            inside = plane[int(y.mean()) - 1 : int(y.mean()) + 2, int(x.mean()) - 1 : int(x.mean()) + 2].mean()
            contrasts.append(inside - np.median(plane[max(0, y.min() - 8) : y.max() + 9, max(0, x.min() - 8) : x.max() + 9]))
    assert len(contrasts) > 8
    assert min(contrasts) > 150


def test_readers_disagree_and_some_nodules_cannot_be_used():
    """Of 600 nodules, some have median malignancy 3, about as many look benign as malignant, and one reader's rating is not another's."""
    rng = np.random.default_rng(1)
    drawn = [draw_nodule(rng, centre_mm=np.zeros(3, np.float32)) for _ in range(600)]
    rated = np.array([[ratings(nodule, rng)["malignancy"] for _ in range(4)] for nodule in drawn])
    median = np.median(rated, axis=1)
    undecided = np.mean((median > 2) & (median < 4))
    assert 0.05 < undecided < 0.3
    assert 0.4 < np.mean(median[(median <= 2) | (median >= 4)] >= 4) < 0.6
    assert 0.2 < np.mean(rated[:, 0] != rated[:, 1]) < 0.8
    assert 0.02 < np.mean([nodule.seen < 0.6 for nodule in drawn]) < 0.2


@pytest.mark.parametrize("key", KNOWN + UNSEEN)
def test_a_scanner_reports_water_and_noise_as_stated(key: str):
    s = scanner(key)
    mas = float(np.mean(s.mas))
    image = s.image(np.zeros((8, 256, 256), np.float32), None, pixel_mm=0.65, mas=mas, software=s.software[0], rng=np.random.default_rng(2))
    assert image.mean() == pytest.approx(1000 * s.gain - 1000 + s.offset_hu, abs=1)
    assert image.std() == pytest.approx(s.noise_hu, rel=0.05)
    half = s.image(np.zeros((8, 256, 256), np.float32), None, pixel_mm=0.65, mas=mas / 4, software=s.software[0], rng=np.random.default_rng(2))
    assert half.std() == pytest.approx(2 * s.noise_hu, rel=0.05)


def test_sharper_kernels_have_finer_noise_and_steeper_edges():
    edge = np.where(np.arange(256) < 128, -850.0, 40.0).astype(np.float32)[None, None].repeat(256, 1).repeat(4, 0)
    found = []
    for key in ("gamma", "alpha", "beta", "delta"):
        s = scanner(key)
        image = s.image(edge, None, pixel_mm=0.65, mas=1e9, software=s.software[0], rng=np.random.default_rng(3))  # so much dose that noise is gone
        noise = s.image(np.zeros_like(edge), None, pixel_mm=0.65, mas=100, software=s.software[0], rng=np.random.default_rng(3))
        found.append((np.diff(image[0, 128, 110:146]).max() / s.gain, np.diff(noise, axis=-1).std() / noise.std()))
    assert found == sorted(found)
    assert [f[1] for f in found] == sorted(f[1] for f in found)


def test_calcium_is_brighter_at_low_voltage():
    calcium = np.full((1, 64, 64), 300, np.float32)

    def mean(s: Scanner, added: NDArray[np.float32] | None) -> float:
        return float(s.image(np.zeros_like(calcium), added, pixel_mm=0.65, mas=1e9, software=s.software[0], rng=np.random.default_rng(4)).mean())

    by_kvp = {s.kvp: (mean(s, calcium) - mean(s, None)) / s.gain for s in SCANNERS}
    assert by_kvp[80] > by_kvp[100] > by_kvp[120]


def test_an_earlier_phantom_is_kept_or_replaced_and_nothing_else_is(known: Path, tmp_path: Path):
    folder = tmp_path / "phantom"
    first = generate(folder, patients=1, seed=SEED, workers=1)
    stamp = (folder / "phantom.json").stat().st_mtime_ns
    assert generate(folder, patients=1, seed=SEED, workers=1) == first
    assert (folder / "phantom.json").stat().st_mtime_ns == stamp
    assert generate(folder, patients=1, seed=SEED, workers=1, devices=["gamma"])["counts"]["series_gamma"] == 1
    assert len(list(folder.glob("SYN*"))) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("not ours")
    with pytest.raises(DataError, match="something else"):
        generate(tmp_path / "other", patients=1, seed=SEED, workers=1)
    assert [f.name for f in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_unknown_names_are_refused(tmp_path: Path):
    with pytest.raises(SpecError, match="alpha, beta, gamma, delta"):
        generate(tmp_path / "x", patients=1, seed=1, devices=["omega"])
    with pytest.raises(SpecError, match="no such simulated device"):
        generate(tmp_path / "x", patients=1, seed=1, devices=[])
    with pytest.raises(SpecError, match="chest-ct"):
        generator("chest-mr")
    assert "chest-ct" in kinds()
    assert "anatomy" not in kinds(), "a part of a generator is none"
    assert not (tmp_path / "x").exists()
