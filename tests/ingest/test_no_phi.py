"""No name, id, birth date or free text of a header is in any byte that ingest writes: outputs, unfinished work, log.

A secret stands in every element of the DICOM dictionary that can hold text, in private elements, in nested sequences, in the file meta
information, the preamble, overlays, paths, and in the readers' XML.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydicom.datadict import DicomDictionary, RepeatersDictionary
from pydicom.dataset import Dataset

from components.core.dataset import Dataset as Written
from tests.ingest.made import KEY, ROOT, dataset, marks, save
from tests.ingest.test_resume import PROGRAM

WORD = "Zqxsecret"
BIRTH, BIRTH_ISO = "19570314", "1957-03-14"
NUMBER = "7310468"
UID_ROOT = "1.2.40.77777"
SECRETS = (WORD, BIRTH, BIRTH_ISO, UID_ROOT, NUMBER, "235957")
TEXT_VRS = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "CS", "AE", "UR")
KEPT = {  # what makes the file an image of a series; all of it is public or checked elsewhere
    "Modality", "SOPClassUID", "PhotometricInterpretation", "SpecificCharacterSet", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "RescaleType", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesInstanceUID", "ImageType", "SliceThickness", "KVP", "Exposure", "ImagerPixelSpacing", "SyntheticData",
}  # fmt: skip


def secret(vr: str, n: int) -> Any:
    """A value that is legal in its VR and can be recognised."""
    if vr in TEXT_VRS:
        return {"PN": f"{WORD}{n}^{WORD}Jane", "CS": f"{WORD}{n}".upper(), "SH": f"{WORD}{n}"}.get(vr, f"{WORD}{n} was here")
    return {"DA": BIRTH, "DT": f"{BIRTH}101112", "TM": "235957.731046", "AS": "067Y", "UI": f"{UID_ROOT}.{n}", "IS": NUMBER, "DS": f"{NUMBER}.5"}.get(
        vr
    )


def plant(d: Dataset, n: int = 0) -> int:
    """Fill `d` with secrets wherever the dictionary allows; returns how many."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if (
            group in (0x0000, 0x0002, 0x0004)
            or group >= 0x7FE0
            or keyword in KEPT
            or vr.split(" ")[0] not in (*TEXT_VRS, "DA", "DT", "TM", "AS", "UI", "IS", "DS")
        ):
            continue
        n += 1
        d.add_new(tag, vr.split(" ")[0], secret(vr.split(" ")[0], n))
    return n


def planted() -> Dataset:
    """One slice full of secrets; `source` gives it its place."""
    d = dataset()
    n = plant(d)
    assert n > 1500
    nested = Dataset()
    plant(nested)
    deeper = Dataset()
    deeper.PatientName = f"{WORD}^Deep"
    nested.ReferencedPatientSequence = [deeper]
    for tag, (vr, _, _, _, keyword) in list(DicomDictionary.items())[::40]:
        if (
            vr == "SQ"
            and keyword not in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence")
            and tag >> 16 > 4
        ):
            d.add_new(tag, "SQ", [deeper])
    d.OtherPatientIDsSequence = d.RequestAttributesSequence = [nested]
    for group in (0x6000, 0x6002):  # overlay comments and labels; curve descriptions
        for tag, (vr, _, _, _, _) in RepeatersDictionary.items():
            if tag.startswith("60xx") and vr in TEXT_VRS:
                d.add_new((group << 16) | int(tag[4:], 16), vr, secret(vr, 1))
    block = d.private_block(0x0009, f"{WORD} creator", create=True)
    block.add_new(1, "LO", f"{WORD} private")
    block.add_new(2, "UN", f"{WORD} unknown".encode())
    block.add_new(3, "OB", f"{WORD} bytes!".encode())
    d.add_new(0xFFFCFFFC, "OB", f"{WORD} trailing".encode())
    d.file_meta.add_new(0x00020013, "SH", WORD)
    d.file_meta.add_new(0x00020016, "AE", WORD)
    d.file_meta.add_new(0x00020100, "UI", f"{UID_ROOT}.9")
    d.file_meta.add_new(0x00020102, "OB", f"{WORD} meta!!".encode())
    d.preamble = f"{WORD} preamble".encode().ljust(128, b"\0")
    return d


def source(folder: Path) -> Path:
    """Four patients under folders that are called like them, one damaged file each, notes beside."""
    d = planted()
    for p in range(4):
        series = f"{UID_ROOT}.5.{p}"
        place = folder / f"{WORD}ID_{p}" / f"study {BIRTH}" / series
        for k in range(3):
            d.SeriesInstanceUID, d.SOPInstanceUID, d.PatientID = series, f"{series}.{k + 1}", f"{WORD}ID{p}"
            d.StudyInstanceUID, d.file_meta.MediaStorageSOPInstanceUID = f"{UID_ROOT}.4.{p}", d.SOPInstanceUID
            d.ImagePositionPatient = [0, 0, 2 * k]
            save(d, place / f"{k}.dcm")
        whole = (place / "0.dcm").read_bytes()
        (place / f"{WORD}Jane-cut.dcm").write_bytes(whole[: len(whole) // 2])
        (place / f"letter about {WORD}Jane.txt").write_text(f"Dear {WORD}")
        text = marks(series, [(1, 30, 34, 6, [[1, 1, 1], [5, 5, 5]][p % 2])])
        text = text.replace("<ResponseHeader>", f"<ResponseHeader><Message>{WORD} {BIRTH}</Message>").replace("SYNTHETIC", WORD)
        (place / f"{WORD}Jane.xml").write_text(text)
    return folder


def spellings(texts: tuple[str, ...]) -> list[bytes]:
    """How a secret could show, as regular expressions over bytes without regard to case."""
    found: list[bytes] = []
    for text in texts:
        found += [re.escape(text.encode(code)) for code in ("ascii", "utf-16-le", "utf-16-be", "utf-32-le")]
        found.append(text.encode().hex().encode())
        found += [re.escape(base64.b64encode(b"x" * lead + text.encode() + b"xx")[4 if lead else 0 : -4]) for lead in (0, 1, 2)]
        found.append(re.escape(text[::-1].encode()))
    for value in (WORD, f"{WORD}ID", f"{WORD}ID".upper(), BIRTH, "1.2.40.77777.5.0"):  # a hash without a key is as good as the value
        for algorithm in ("md5", "sha1", "sha256"):
            found.append(hashlib.new(algorithm, value.encode()).hexdigest()[:16].encode())
    return found


def everything(folders: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Every file's bytes, and parquet also decoded."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            yield f"name of {path.name}", str(path.relative_to(folder)).encode("utf-8", "surrogateescape")
            if path.is_file():
                yield path.name, path.read_bytes()
            if path.is_file() and path.read_bytes()[:4] == b"PAR1":
                table = pq.read_table(path)
                yield f"{path.name} decoded", repr(table.to_pylist()).encode()
                yield f"{path.name} schema", repr(table.schema.metadata).encode() + str(table.schema).encode()


def leaks(found: Iterator[tuple[str, bytes]], texts: tuple[str, ...] = SECRETS) -> list[tuple[str, bytes]]:
    pattern = re.compile(b"|".join(spellings(texts)), re.IGNORECASE)
    return [(name, data[max(0, hit.start() - 20) : hit.end() + 20]) for name, data in found for hit in pattern.finditer(data)]


@pytest.fixture(scope="module")
def planted_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says what is wrong with these values
        return source(tmp_path_factory.mktemp("phi"))


def start(folder: Path, out: Path, *, share: float) -> subprocess.Popen[bytes]:
    (out / "program").mkdir(parents=True)
    program = out / "program" / "p.py"
    program.write_text(PROGRAM.replace("lung_nodule()", f'lung_nodule(limits={{"quarantine_share": {share}}})'))
    env = {k: v for k, v in os.environ.items() if not k.startswith("DXFLOW")} | {
        "DXFLOW_HOME": str(out / "home"),
        "DXFLOW_KEY": KEY,
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), str(out)], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_the_search_finds_what_it_should():
    """A check that cannot fail would be none."""
    for data in (
        WORD.upper().encode(),
        WORD.encode("utf-16-le"),
        base64.b64encode(b"abc" + WORD.encode()),
        WORD.encode().hex().encode(),
        b"1957-03-14",
    ):
        assert leaks(iter([("x", b"...." + data + b"...")])), data


def test_no_secret_in_any_output_or_in_the_log(planted_source: Path, tmp_path: Path):
    log, _ = (process := start(planted_source, tmp_path, share=1)).communicate(timeout=120)
    assert process.returncode == 0, log.decode()
    assert leaks(iter([("log", log)])) == []
    assert leaks(everything([tmp_path / "dataset", tmp_path / "features", tmp_path / "home"])) == []
    written = Written(tmp_path / "dataset")
    assert len(written) == 4  # the planted files were really used
    assert len(written.quarantine) == 8
    assert written.quarantine["file"].str.contains("path-").all()
    assert written.manifest["manufacturer"].str.startswith("other-").all()


def test_no_secret_in_unfinished_work(planted_source: Path, tmp_path: Path):
    """kill -9 leaves the journal behind."""
    process = start(planted_source, tmp_path, share=1)
    assert process.stdout is not None
    log = b""
    for line in process.stdout:
        log += line
        if b'"what": "series"' in line:
            process.send_signal(signal.SIGKILL)
            break
    log += process.stdout.read()
    process.wait()
    assert leaks(iter([("log", log)])) == []
    left = list(everything([tmp_path / "home"]))
    assert any(name == "journal.db" for name, _ in left)
    assert leaks(iter(left)) == []


def test_no_secret_in_an_error(planted_source: Path, tmp_path: Path):
    log, _ = (process := start(planted_source, tmp_path, share=0.1)).communicate(timeout=120)
    assert process.returncode == 2
    assert b"too much of the source is unusable" in log
    assert leaks(iter([("log", log)])) == []
    assert leaks(everything([tmp_path / "home"])) == []
