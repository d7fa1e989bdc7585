"""What people really point ingest at: empty folders, text, damaged files, somebody's test suite."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.ingest.made import JPEG_2000, collection, dataset, hidden, lung_nodule, save

TOLERANT = lung_nodule(limits={"quarantine_share": 1})
PYDICOM_FILES = Path(pydicom.__file__).parent / "data"


def run(source: Path, out: Path, spec: DiseaseSpec = TOLERANT) -> Dataset:
    ingest(spec, str(source), dataset=out / "dataset", features=out / "features", workers=2)
    return Dataset(out / "dataset")


def refused(source: Path, out: Path, spec: DiseaseSpec = TOLERANT) -> str:
    """The one line of the error; nothing may be left behind."""
    with pytest.raises(DataError) as caught:
        run(source, out, spec)
    assert not (out / "dataset").exists()
    assert not (out / "features").exists()
    assert not list(out.glob("*.partial"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_there(tmp_path: Path):
    assert "no such source" in refused(tmp_path / "absent", tmp_path)
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert "the source holds no file" in refused(tmp_path / "empty", tmp_path)


def test_text_and_empty_files_only(tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    for n in range(20):
        (source / f"{n}.txt").write_text(f"Dear Dr {n}, ...\n" * n)
    message = refused(source, tmp_path)
    assert "no usable sample" in message
    assert "20 files: not a DICOM file (19), empty file (1)" in message


def test_damage_over_the_limit_names_the_three_commonest_reasons(tmp_path: Path):
    source = collection(tmp_path / "in", patients=2)
    for n in range(4):
        (source / f"note{n}.txt").write_text("not an image")
    for n in range(3):
        (source / f"nothing{n}").touch()
    for n in range(2):
        (source / f"bad{n}.xml").write_text("<?xml version='1.0'?><a>")
    save(dataset(Modality="MR"), source / "other.dcm")
    save(dataset(RescaleSlope=0), source / "flat.dcm")
    message = refused(source, tmp_path, lung_nodule(limits={"quarantine_share": 0.4}))
    assert "too much of the source is unusable" in message
    assert "10 of 23 (43.5%): not a DICOM file (4), empty file (3), XML that does not parse (2), other reasons (1); all of them in " in message
    assert "; allowed: limits.quarantine_share = 0.4" in message


def test_what_is_only_meant_for_others_is_no_damage(tmp_path: Path):
    """An MR series beside the CT: listed, not counted."""
    source = collection(tmp_path / "in", patients=2)
    for k in range(30):
        save(dataset("9.9", k, Modality="MR"), source / "mr" / f"{k}")
    found = run(source, tmp_path, lung_nodule(limits={"quarantine_share": 0}))
    assert found.quarantine["reason"].unique().tolist() == ["another modality than the spec's"]
    assert len(found) == 2


@pytest.mark.parametrize("compress", [None, JPEG_2000])
def test_a_file_cut_at_every_tenth_of_its_length(tmp_path: Path, compress: str | None):
    """Each is in quarantine with the place where it ends; all others are used as if it were not there."""
    source = collection(tmp_path / "in", patients=4, compress=compress)
    whole = run(source, tmp_path / "whole")
    data = save(dataset("1.2.4", hu=np.random.default_rng(0).integers(-1000, 400, (64, 64))), tmp_path / "one.dcm", compress=compress).read_bytes()
    lengths = {f"cut{n}.dcm": len(data) * n // 10 for n in range(10)}
    for name, length in lengths.items():
        (source / name).write_bytes(data[:length])
    found = run(source, tmp_path / "cut")
    rows = found.quarantine.set_index("file")
    assert rows["offset"].to_dict() == {hidden(name): length for name, length in lengths.items()}
    assert rows.drop(hidden("cut0.dcm"))["reason"].str.startswith("truncated").all()
    assert found.manifest.equals(whole.manifest)


def test_a_marked_slice_that_cannot_be_decoded_is_quarantined(tmp_path: Path):
    """The header is in order; only decoding shows the damage."""
    source = collection(tmp_path / "in", patients=4, compress=JPEG_2000)
    path = source / "p001" / "002.dcm"
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 8 : at + 12] = b"\0\0\0\1"
    path.write_bytes(data)
    found = run(source, tmp_path)
    assert found.quarantine["file"].tolist() == [hidden("p001/002.dcm")]
    assert len(found) == 3


def test_all_of_pydicoms_own_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """176 files, many broken on purpose, beside a good collection: the same samples, a reason for each file that gives none."""
    good = run(collection(tmp_path / "in", patients=4), tmp_path / "good")
    shutil.copytree(PYDICOM_FILES, tmp_path / "in" / "pydicom", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    found = run(tmp_path / "in", tmp_path / "all")
    assert found.manifest.equals(good.manifest)
    assert len(found.quarantine) > 150
    assert not found.quarantine["reason"].str.contains("ends the process").any()
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "Warning" not in out + err
    assert "no usable sample" in refused(tmp_path / "in" / "pydicom", tmp_path / "alone")


def test_things_that_are_not_files(tmp_path: Path):
    """A pipe would be read for ever, a link may lead nowhere, a folder may be closed."""
    source = collection(tmp_path / "in", patients=2)
    os.mkfifo(source / "pipe.dcm")
    (source / "link.dcm").symlink_to(tmp_path / "nowhere")
    (source / "loop").symlink_to(source)
    found = run(source, tmp_path)
    assert dict(zip(found.quarantine["file"], found.quarantine["reason"], strict=True)) == {
        hidden("link.dcm"): "not a regular file",
        hidden("pipe.dcm"): "not a regular file",
    }


def test_names_that_are_no_text(tmp_path: Path):
    """File systems allow bytes that are no UTF-8, and line breaks."""
    source = collection(tmp_path / "in", patients=2)
    for name in (b"\xff\xfe.dcm", b"two\nlines.dcm"):
        with open(os.fsencode(source) + b"/" + name, "wb") as handle:
            handle.write(b"no image")
    files = run(source, tmp_path).quarantine["file"]
    assert len(files) == 2
    assert files.str.fullmatch(r"path-[0-9a-f]{16}\.dcm").all()


def test_an_older_dataset_stays_when_ingest_fails(tmp_path: Path):
    source = collection(tmp_path / "in", patients=2)
    run(source, tmp_path)
    before = (tmp_path / "dataset" / "manifest.parquet").read_bytes()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    with pytest.raises(DataError):
        run(tmp_path / "text", tmp_path)
    assert (tmp_path / "dataset" / "manifest.parquet").read_bytes() == before
