"""One flipped bit in a file that has a checksum is refused, or changes nothing; where a format has none, that is said here."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.core.imaging.dicom import read_dicom
from components.core.imaging.errors import NotUsable
from components.core.imaging.nifti import read_volume
from components.core.imaging.pictures import decode_picture
from components.core.imaging.slides import open_slide
from components.core.imaging.tiff_deflate import DeflatedPieces
from tests.core.flips import OTHER, REFUSED, flips, outcomes
from tests.core.test_dicom_image import as_bytes
from tests.core.test_pictures import EXIF, PLAIN, RGB, deep, png
from tests.ingest.made import PSEUDONYMISER, dataset, lung_nodule
from tests.serving import small_bodies

HEAD = small_bodies.nifti(shape=(20, 24, 20), mm=8.0)
FLIPS = 150


def volume(data: bytes) -> tuple[Any, Any]:
    found = read_volume(io.BytesIO(data), most_voxels=1_000_000)
    return found.data, found.affine


def picture(data: bytes) -> tuple[Any, str, str]:
    found = decode_picture(io.BytesIO(data), most_pixels=10_000)
    return found.pixels, found.maker, found.model


def deflated() -> bytes:
    made = dataset(k=3)
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    return as_bytes(made)


def tiff(compression: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, "TIFF", compression=compression)
    return out.getvalue()


CHECKED: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "NIfTI, gzip": (gzip.compress(HEAD, 6), volume),
    "NIfTI, gzip of two members": (gzip.compress(HEAD[:9000], 1) + gzip.compress(HEAD[9000:], 9), volume),
    "PNG": (PLAIN["RGB"], picture),
    "PNG with EXIF": (png(exif=EXIF), picture),
    "PNG with a palette": (png("P"), picture),
    "PNG with alpha": (png("RGBA"), picture),
    "PNG with a transparent colour": (png(transparency=(1, 2, 3)), picture),
    "PNG of 16 bits": (deep(), picture),
}


@pytest.mark.parametrize("name", CHECKED)
def test_no_flipped_bit_gives_other_values(name: str) -> None:
    data, read = CHECKED[name]
    found, wrong = outcomes(data, read, FLIPS, seed=len(name))
    assert wrong == []
    assert found[REFUSED] > FLIPS // 2


def test_of_a_deflated_tiff_the_pixels_are_checked_and_its_directory_has_nothing_to_check() -> None:
    data = tiff("tiff_adobe_deflate")
    first = int.from_bytes(data[4:8], "little")  # TIFF 6.0, section 2: Pillow's pixels stand before the directory
    assert len(data) - first < 300
    _, wrong = outcomes(data, picture, 2 * FLIPS)
    assert [bit for bit in wrong if 8 <= bit // 8 < first] == []


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("tile", [None, (32, 48)])
def test_every_piece_of_a_deflated_tiff_is_asked_for_its_checksum(tmp_path: Path, bigtiff: bool, tile: tuple[int, int] | None) -> None:
    """One that holds more than its piece was decoded without a word: the decoder had its pixels before it came to the checksum."""
    import tifffile

    path, image = tmp_path / "x.tif", np.random.default_rng(0).integers(0, 9, (100, 130, 3), dtype=np.uint8)
    options: dict[str, Any] = {"tile": tile} if tile else {"rowsperstrip": 16}
    orders: tuple[Any, ...] = ("<", ">")
    for order in orders:
        with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=order) as writer:
            writer.write(image, photometric="rgb", compression="deflate", metadata=None, **options)
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        data = path.read_bytes()
        DeflatedPieces(io.BytesIO(data)).check(130, 100)
        for at, length in pieces:
            turned = bytearray(data)
            turned[at + length - 1] ^= 1
            with pytest.raises(NotUsable, match="damaged TIFF"):
                DeflatedPieces(io.BytesIO(bytes(turned))).check(130, 100)
        at, length = pieces[-1]  # the lower right: who looks elsewhere does not pay for it
        turned = bytearray(data)
        turned[at + length - 1] ^= 1
        DeflatedPieces(io.BytesIO(bytes(turned))).check(130, 100, 0, 0, 20, 10)
        with pytest.raises(NotUsable):
            DeflatedPieces(io.BytesIO(bytes(turned))).check(130, 100, 120, 98, 5, 5)


def test_no_flipped_bit_of_a_slides_tiles_gives_other_tiles(tmp_path: Path) -> None:
    import tifffile

    data = small_bodies.slide(tmp_path, side=192)
    with tifffile.TiffFile(tmp_path / "slide.tif") as file:
        pieces = [range(at, at + n) for page in file.pages for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]  # pyright: ignore
    path = tmp_path / "turned.tif"

    def tiles(changed: bytes) -> list[Any]:
        path.write_bytes(changed)
        with open_slide(path, pixels=1 << 20) as slide:
            return [slide.tile(x, y, slide.levels[0], 1, 64).copy() for x in range(0, 192, 64) for y in range(0, 192, 64)]

    _, wrong = outcomes(data, tiles, FLIPS)
    assert [bit for bit in wrong if any(bit // 8 in piece for piece in pieces)] == []


def test_every_bit_of_a_gzip_trailer_matters() -> None:
    packed = gzip.compress(HEAD, 6)
    for bit in range(64):  # CRC-32 and length
        turned = bytearray(packed)
        turned[-8 + bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotUsable, match="damaged gzip stream"):
            volume(bytes(turned))


@pytest.mark.parametrize(
    ("behind", "reason"),
    [(b"", None), (b"\0" * 512, None), (gzip.compress(b"\0" * 512), None), (b"garbage!", "damaged gzip"), (gzip.compress(b"")[:-1], "damaged gzip"),
     (gzip.compress(b"\0" * (64 << 20)), "more voxels than the header says")],
    ids=["nothing", "zeros to a block", "a member of padding", "garbage", "a member cut short", "a member of 64 MB"],
)  # fmt: skip
def test_what_follows_a_gzip_member(behind: bytes, reason: str | None) -> None:
    if reason is None:
        assert np.array_equal(volume(gzip.compress(HEAD) + behind)[0], volume(HEAD)[0])
        return
    with pytest.raises(NotUsable, match=reason):
        volume(gzip.compress(HEAD) + behind)


def test_a_plain_volume_has_no_checksum_but_a_length() -> None:
    """Its voxels are believed; a header that leaves planes of it unread is not."""
    short = bytearray(HEAD)
    short[46:48] = (10).to_bytes(2, "little")  # dim[3]: 10 of 20 planes
    for data in (bytes(short), gzip.compress(bytes(short))):
        with pytest.raises(NotUsable, match="more voxels than the header says"):
            volume(data)


def test_a_deflated_data_set_is_read_to_its_end() -> None:
    """Raw deflate has no checksum: what can be asked is whether the stream ends, and its data set with it."""
    data = deflated()
    read_dicom(data, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)
    for changed in (data[:-1], data[:-20], data[:-1] + b"\1\1", data + b"more"):
        if changed != data[:-1]:  # the last byte may be the one that pads
            with pytest.raises(NotUsable, match="damaged"):
                read_dicom(changed, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)


def test_a_deflated_data_set_may_not_have_something_behind_its_pixels() -> None:
    data = deflated()
    start = 144 + int.from_bytes(data[140:144], "little")
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:])
    for behind, reason in ((b"\1\2\3\4\5\6\7\1", "does not end where"), (b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0", None)):
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        whole = data[:start] + packer.compress(body + behind) + packer.flush()
        if reason is None:
            read_dicom(whole, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)
        else:
            with pytest.raises(NotUsable, match=reason):
                read_dicom(whole, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(2, 9), st.integers(1, 9), st.integers(0, 1 << 30), st.lists(st.integers(1, 4000), max_size=2)
)
def test_any_volume_however_it_is_packed(i: int, j: int, k: int, level: int, seed: int, cuts: list[int]) -> None:
    data = small_bodies.nifti(shape=(i, j, k), mm=4.0)
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    packed = b"".join(gzip.compress(data[a:b], level) for a, b in pairwise(edges))
    assert np.array_equal(volume(packed)[0], volume(data)[0])
    assert outcomes(packed, volume, 8, seed)[0][OTHER] == 0
    for _, turned in flips(packed[-8:], 4, seed):
        with pytest.raises(NotUsable):
            volume(packed[:-8] + turned)
