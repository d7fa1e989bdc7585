"""Single bits turned, thousands in each format that is read or written: refused, or the same values; where a format has no checksum, how many pass.

`python -m tests.soak.bit_flips [number] [seed]`; exits with 1 where a format with a checksum gave other values.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.core.errors import DataError
from components.core.inference_log import InferenceLog, read_log
from components.core.package import ModelPackage
from tests.core.flips import OTHER, REFUSED, SAME, outcomes
from tests.core.test_bit_flips import HEAD, deflated, picture, tiff, volume
from tests.core.test_inference_log_compaction import mixed
from tests.core.test_inference_log_damage import segmented
from tests.core.test_package import write as write_package
from tests.core.test_pictures import EXIF, PLAIN, deep, png
from tests.ingest.made import PSEUDONYMISER, lung_nodule
from tests.ingest.test_npz import arrays, reading

Read = Callable[[bytes], Any]


def dicom(data: bytes) -> Any:
    from components.core.imaging.dicom import read_dicom

    return read_dicom(data, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER).frames


def npz(folder: Path, *, packed: bool) -> tuple[bytes, Read]:
    out = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(out, **arrays(11))  # pyright: ignore[reportCallIssue, reportArgumentType]
    return out.getvalue(), reading(folder)


def log_file(folder: Path, name: str) -> tuple[bytes, Read]:
    """A file of a log; the log's records, or a refusal where the reader tells of a loss: what is left out is told, what is read must be the same."""
    path = folder / name

    def read(data: bytes) -> Any:
        path.write_bytes(data)
        found = read_log(folder)
        if found.attrs["told"]:
            raise DataError(found.attrs["told"][0])
        return found

    return path.read_bytes(), read


def package_file(folder: Path, name: str) -> tuple[bytes, Read]:
    def read(data: bytes) -> Any:
        (folder / name).write_bytes(data)
        opened = ModelPackage.open(folder)
        return opened.info, opened.digest

    return (folder / name).read_bytes(), read


def slide(folder: Path) -> tuple[bytes, Read]:
    from components.core.imaging.slides import open_slide
    from tests.serving import small_bodies

    data, path = small_bodies.slide(folder, side=192), folder / "turned.tif"

    def tiles(changed: bytes) -> Any:
        path.write_bytes(changed)
        with open_slide(path, pixels=1 << 20) as found:
            return [found.tile(x, y, found.levels[0], 1, 64).copy() for x in range(0, 192, 64) for y in range(0, 192, 64)]

    return data, tiles


def formats(root: Path) -> dict[str, tuple[bytes, Read, bool]]:
    """{format: (a file, what reads it, whether each of its bits that says something is checked)}."""
    folders = {name: root / name for name in ("npz", "packed", "lines", "slide")}
    for folder in folders.values():
        folder.mkdir()
    log = segmented(root / "log", [20, 15, 25])
    with InferenceLog(folders["lines"]) as lines:
        lines.append([mixed(n) for n in range(30)])
    package = write_package(root / "package")
    (root / "package" / "registration.json").write_text(json.dumps({"version": "1", "digest": package.digest}))
    checked = {
        "NIfTI, gzip": (gzip.compress(HEAD, 6), volume),
        "NIfTI, gzip of two members": (gzip.compress(HEAD[:9000], 1) + gzip.compress(HEAD[9000:], 9), volume),
        "PNG": (PLAIN["RGB"], picture), "PNG with EXIF": (png(exif=EXIF), picture), "PNG with a palette": (png("P"), picture),
        "PNG with alpha": (png("RGBA"), picture), "PNG of 16 bits": (deep(), picture),
        "npz": npz(folders["npz"], packed=False), "npz, deflated": npz(folders["packed"], packed=True),
        "log, compacted": log_file(log, "000002.parquet"), "log, lines": log_file(folders["lines"], "000001.log"),
        "log, manifest": log_file(log, "segments.manifest"),
        **{f"package, {name}": package_file(root / "package", name) for name in ("package.json", "model.onnx", "reference.parquet")},
    }  # fmt: skip
    unchecked = {
        "DICOM, deflated": (deflated(), dicom), "TIFF, deflated (its directory)": (tiff("tiff_adobe_deflate"), picture),
        "slide, deflated (its directories)": slide(folders["slide"]), "TIFF, LZW": (tiff("tiff_lzw"), picture), "NIfTI, plain": (HEAD, volume),
    }  # fmt: skip
    return {name: (*one, True) for name, one in checked.items()} | {name: (*one, False) for name, one in unchecked.items()}


def main() -> int:
    number, seed = (int(sys.argv[n]) if len(sys.argv) > n else usual for n, usual in ((1, 2000), (2, 20_261_201)))
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (data, read, checked) in formats(Path(root)).items():
            began = time.process_time()
            try:
                found, bits = outcomes(data, read, number, seed)
            except Exception as error:  # the very thing that is looked for
                wrong.append(f"{name}: {type(error).__name__}")
                continue
            finally:
                if name.startswith(("log", "package")):
                    read_back(Path(root), data, name)
            counts = {word: found[word] for word in (REFUSED, SAME, OTHER)}
            print(name, json.dumps({"bytes": len(data), **counts, "seconds": round(time.process_time() - began, 1)}), flush=True)
            if checked and bits:
                wrong.append(f"{name}: {len(bits)} of {number} gave other values, first bit {bits[0]}")
    print("\n".join(wrong) or "nothing wrong", flush=True)
    return 1 if wrong else 0


def read_back(root: Path, data: bytes, name: str) -> None:
    """The file as it was: the next one is read beside it."""
    places = {
        "log, compacted": "log/000002.parquet", "log, lines": "lines/000001.log", "log, manifest": "log/segments.manifest",
        **{f"package, {file}": f"package/{file}" for file in ("package.json", "model.onnx", "reference.parquet")},
    }  # fmt: skip
    (root / places[name]).write_bytes(data)


if __name__ == "__main__":
    raise SystemExit(main())
