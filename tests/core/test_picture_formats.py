"""One picture in every kind of file, the right way up, with one meaning or a reason."""

from __future__ import annotations

import io
import time
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from components.core.imaging import picture_kinds
from components.core.imaging.codestreams import MOST_SCANS, announced
from components.core.imaging.errors import NotUsable
from components.core.imaging.fit import fit
from components.core.imaging.pictures import Picture, decode_picture, turned
from components.core.spec import Input

RGB = np.random.default_rng(0).integers(0, 256, (19, 30, 3), dtype=np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {"lossless": True}}
EXAMPLES = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def decoded(data: bytes, **options: Any) -> Picture:
    return decode_picture(io.BytesIO(data), **{"most_pixels": 1_000_000, **options})


def file(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **LOSSLESS.get(kind, {}), **options)
    return out.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, metadata=None, **options)
    return out.getvalue()


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(NotUsable) as refused:
        decoded(data, **options)
    return refused.value.reason


def exif(orientation: int) -> Image.Exif:
    marks = Image.Exif()
    marks[0x010F], marks[0x0110], marks[0x0112] = "ACME", "Fundus 9", orientation
    return marks


# One list of kinds


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
@pytest.mark.parametrize("grey", [False, True])
def test_every_kind_is_told_by_its_bytes_and_gives_its_pixels(kind: str, grey: bool):
    pixels = RGB[..., 1] if grey else RGB
    data = file(pixels, kind)
    told = picture_kinds.kind_of(data[:64])
    assert told is not None
    assert told.plugin == kind
    found = decoded(data).pixels
    if kind == "JPEG":
        assert np.abs(found.astype(int) - np.asarray(Image.open(io.BytesIO(data)))).max() == 0
    else:
        np.testing.assert_array_equal(found if grey == (found.ndim == 2) else found[..., 0], pixels)  # WebP has no grey


@pytest.mark.parametrize(
    "text", [b"BMI,age,label\n21.3,60,1\n", b"P5,P6\n1,2\n", b"P1\nx\n", b"RIFF,WEBP\n", b"II*,a\n", b"", b"GIF89a\1\0\1\0", b"PF\n1 1\n-1\n\0\0\0\0"]
)
def test_other_bytes_are_no_picture(text: bytes):
    assert picture_kinds.kind_of(text) is None
    assert reason(text) == "not an image, or a damaged one"


def test_a_netpbm_comment_and_plain_text_values_are_read():
    np.testing.assert_array_equal(decoded(b"P2\n# a comment\n3 2\n255\n1 2 3\n4 5 255\n").pixels, [[1, 2, 3], [4, 5, 255]])


def test_a_phones_jpeg_with_further_pictures_is_the_first_of_them():
    """MPO, as CIPA DC-007 has it: Pillow calls it by another name, and its camera was lost by that."""
    plain, out = Image.fromarray(RGB), io.BytesIO()
    plain.save(out, "MPO", save_all=True, append_images=[Image.fromarray(RGB[::-1])] * 2, exif=exif(6))
    alone = decoded(file(plain, "JPEG", exif=exif(6)))
    found = decoded(out.getvalue())
    np.testing.assert_array_equal(found.pixels, alone.pixels)
    assert (found.maker, found.model, found.others) == ("ACME", "Fundus 9", 2)
    assert (alone.maker, alone.model, alone.others) == ("ACME", "Fundus 9", 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_pictures_in_one_file_are_refused(kind: str):
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, kind, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    assert reason(out.getvalue()) == "several pictures in one file"


# The right way up


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("grey", [False, True])
def test_the_orientation_is_what_a_viewer_shows(kind: str, orientation: int, grey: bool):
    """Oracle: Pillow's `exif_transpose`; and the tag's own words (EXIF 2.3, table 6), by where the stored corner comes to lie."""
    data = file(RGB[..., 0] if grey else RGB, kind, exif=exif(orientation))
    found = decoded(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(found.pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert (found.maker, found.model) == ("ACME", "Fundus 9")
    marked = np.zeros((4, 6), np.uint8)
    marked[0, 0], marked[0, -1] = 1, 2  # where row 0 and column 0 meet; the other end of row 0
    corner, end = {1: ((0, 0), (0, -1)), 2: ((0, -1), (0, 0)), 3: ((-1, -1), (-1, 0)), 4: ((-1, 0), (-1, -1)), 5: ((0, 0), (-1, 0)),
                   6: ((0, -1), (-1, -1)), 7: ((-1, -1), (0, -1)), 8: ((-1, 0), (0, 0))}[orientation]  # fmt: skip
    shown = turned(marked, orientation)
    assert (shown[corner], shown[end], shown.shape) == (1, 2, (4, 6) if orientation < 5 else (6, 4))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_that_is_none_and_damaged_exif_leave_the_picture(kind: str, orientation: int):
    plain = decoded(file(RGB, kind)).pixels
    np.testing.assert_array_equal(decoded(file(RGB, kind, exif=exif(orientation))).pixels, plain)
    for broken in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nothing"):
        found = decoded(file(RGB, kind, exif=broken))
        np.testing.assert_array_equal(found.pixels, plain)
        assert found.maker == ""


@EXAMPLES
@given(
    kind=st.sampled_from(["PNG", "TIFF", "WEBP"]), orientation=st.integers(1, 8), height=st.integers(1, 9), width=st.integers(1, 9),
    mode=st.sampled_from(["L", "RGB", "RGBA", "P"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_kinds_and_modes_and_orientations_together(kind: str, orientation: int, height: int, width: int, mode: str, seed: int):
    """Any lossless kind gives the pixels that were put in, on black where they are transparent, turned."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.maximum(rng.integers(0, 256, (height, width)), np.eye(height, width) * 9).astype(np.uint8)))
    elif mode != "RGB":
        image = image.convert(mode)
    if kind == "WEBP" and mode == "P":
        image = image.convert("RGB")
    data = file(image, kind, exif=exif(orientation), **({"exact": True} if kind == "WEBP" else {}))
    if mode == "RGBA":
        values = np.asarray(image).astype(float)
        wanted = np.floor(values[..., :3] * values[..., 3:] / 255 + 0.5)
    else:
        wanted = np.asarray(image if mode == "L" and kind != "WEBP" else image.convert("RGB"))
    np.testing.assert_array_equal(decoded(data).pixels, turned(wanted, orientation))


# Transparency


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_what_hides_under_transparent_pixels_never_matters(kind: str):
    opacity = np.zeros((19, 30), np.uint8)
    opacity[3:16, 5:25] = 255
    opacity[2, 5:25] = 128
    found = []
    for hidden in ((0, 0, 0), (255, 255, 255), (255, 0, 255)):
        colours = np.where((opacity == 0)[..., None], np.array(hidden, np.uint8), RGB)
        data = file(np.dstack([colours, opacity]), kind, **({"exact": True} if kind == "WEBP" else {}))
        found.append(decoded(data).pixels)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[0][3:16, 5:25], RGB[3:16, 5:25])
    assert not found[0][opacity == 0].any()
    np.testing.assert_array_equal(found[0][2, 5:25], np.floor(RGB[2, 5:25] * 128.0 / 255 + 0.5))


def test_a_palette_with_transparent_entries_lies_on_black():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    data = file(image, "PNG", transparency=bytes([255, 0, 128]))
    np.testing.assert_array_equal(decoded(data).pixels, [[[200, 10, 10], [0, 0, 0], [5, 5, 100]]])


@pytest.mark.parametrize(("mode", "level"), [("L", 7), ("RGB", (7, 8, 9))])
def test_a_transparent_level_is_black(mode: str, level: Any):
    image = Image.new(mode, (2, 1), level)
    image.putpixel((0, 0), 99 if mode == "L" else (99, 98, 97))
    found = decoded(file(image, "PNG", transparency=level)).pixels
    assert not found[0, 1].any()
    assert found[0, 0].tolist() == (99 if mode == "L" else [99, 98, 97])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_picture_that_is_transparent_throughout_is_refused(mode: str):
    assert reason(file(Image.new(mode, (4, 4), (9,) * (len(mode) - 1) + (0,)), "PNG")) == "transparent throughout"


# Depths and colours: the right value or one line


def test_a_deep_grey_keeps_its_values_and_is_none_of_eight_bits():
    deep = (np.arange(12, dtype=np.uint16).reshape(3, 4) * 21).astype(np.uint16)
    for data in (file(Image.fromarray(deep), "PNG"), tiff(deep), tiff(deep, byteorder=">"), b"P5 4 3 65535\n" + deep.astype(">u2").tobytes()):
        found = decoded(data).pixels
        np.testing.assert_array_equal(found, deep)
        assert found.dtype == np.uint16
        with pytest.raises(NotUsable, match="16 bits a value where the spec has 8"):
            fit(found, Input(modality="dermoscopy", reader="image-csv", layout="image", shape=(1, 3, 4), dtype="uint8", unit="1", range=(0, 255)))
    signed = np.array([[-5, 7]], np.int16)
    np.testing.assert_array_equal(decoded(tiff(signed)).pixels, signed)
    fraction = np.array([[-0.5, 0.25]], np.float32)
    np.testing.assert_array_equal(decoded(tiff(fraction)).pixels, fraction)


ODD: dict[str, tuple[bytes, str]] = {
    "CMYK JPEG": (file(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "colours of print"),
    "CMYK TIFF": (file(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "colours of print"),
    "LAB": (file(Image.new("LAB", (4, 4)), "TIFF"), "colours of print or of another space"),
    "RGB of 16 bits, TIFF": (tiff(RGB.astype(np.uint16) * 257, photometric="rgb"), "16 bits a colour"),
    "RGB of 16 bits, PPM": (b"P6 1 1 65535\n" + bytes(range(6)), "16 bits a colour"),
    "16 bits, white is zero": (tiff(RGB[..., 0].astype(np.uint16), photometric="miniswhite"), "whose zero is white"),
    "floating point, white is zero": (tiff(RGB[..., 0].astype(np.float32), photometric="miniswhite"), "whose zero is white"),
    "signed 8 bits": (tiff(RGB[..., 0].astype(np.int8)), "values that are not"),
    "unsigned 32 bits": (tiff(RGB[..., 0].astype(np.uint32) << 24), "values that are not"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_would_be_guessed_is_refused_by_name(name: str):
    data, says = ODD[name]
    assert says in reason(data)


def test_rgb_of_sixteen_bits_as_png_is_refused():
    rows = b"".join(b"\0" + row.tobytes() for row in (RGB.astype(">u2") * 257).reshape(19, -1))
    chunks = [(b"IHDR", (30).to_bytes(4, "big") + (19).to_bytes(4, "big") + b"\x10\2\0\0\0"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    whole = b"".join(len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks)
    assert "16 bits a colour" in reason(b"\x89PNG\r\n\x1a\n" + whole)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit_and_white_is_zero_show_what_is_meant(photometric: Any):
    black = np.array([[True, False, True]])
    white = (~black).astype(np.uint8) * 255
    data = tiff(white if photometric == "minisblack" else 255 - white, photometric=photometric)
    np.testing.assert_array_equal(decoded(data).pixels, white)
    np.testing.assert_array_equal(decoded(file(Image.fromarray(~black), "PNG")).pixels, white)


# What a file may cost


def repeated_scans(times: int) -> bytes:
    """A progressive JPEG whose last scan stands there again and again, as tiny as it is."""
    data = file(np.zeros((64, 64), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + b"\xff\xd9"


def test_the_scans_of_a_jpeg_are_counted_before_any_is_decoded():
    for quality in (30, 95):
        found = announced(file(RGB, "JPEG", progressive=True, quality=quality))
        assert found is not None
        assert (found.rows, found.columns, found.components, found.bits, found.scans) == (19, 30, 3, 8, 10)
    few = repeated_scans(60)
    assert not decoded(few).pixels.any()
    many = announced(repeated_scans(MOST_SCANS - 10))
    assert many is not None
    began = time.process_time()
    for times in (MOST_SCANS, 4000, 20_000):
        assert reason(repeated_scans(times)) == f"a JPEG of over {MOST_SCANS} scans"
    assert time.process_time() - began < 5  # decoded, the last would take half a minute
    assert reason(few, most_pixels=64 * 64) == "a JPEG of more scans than its size allows"


def test_a_tiff_cannot_hide_scans_or_a_tile_larger_than_itself():
    inner = repeated_scans(4000)
    at = {256: 64, 257: 64, 258: 8, 259: 7, 262: 1, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 64, 279: len(inner)}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little") for tag, value in sorted(at.items())
    )
    data = b"II*\0\x08\0\0\0" + len(at).to_bytes(2, "little") + entries + bytes(4) + inner
    assert reason(data) == "a JPEG of more scans than its size allows"
    tiled = bytearray(tiff(np.zeros((64, 64), np.uint8), tile=(16, 16)))
    for tag in (322, 323):
        place = tiled.index(tag.to_bytes(2, "little"), 8)
        kind = int.from_bytes(tiled[place + 2 : place + 4], "little")
        size = 2 if kind == 3 else 4
        tiled[place + 8 : place + 8 + size] = (60_000).to_bytes(size, "little")
    assert reason(bytes(tiled)) == "a TIFF whose tiles are larger than its picture"


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
def test_size_and_expansion_are_checked_for_every_kind(kind: str):
    data = file(np.zeros((300, 300, 3), np.uint8), kind)
    assert reason(data, most_pixels=300 * 300 - 1) == "image over limits.pixels_per_image"
    assert decoded(data, most_expansion=1.0).pixels.shape == (300, 300, 3)  # below 8 MiB anything may


def test_the_decoder_is_silent_about_what_it_reads(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    """Pillow logs tags with their values, and names samples that it cannot decode."""
    caplog.set_level("DEBUG")
    decoded(file(RGB, "TIFF", exif=exif(3)))
    odd = bytearray(file(RGB, "TIFF"))
    at = odd.index((277).to_bytes(2, "little") + b"\3\0", 8)
    odd[at + 8 : at + 10] = (2048).to_bytes(2, "little")
    assert reason(bytes(odd)) == "not an image, or a damaged one"
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_in_xmp_counts_as_pillow_counts_it(orientation: int):
    marks = PngInfo()
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    marks.add_itxt("XML:com.adobe.xmp", text)
    data = file(RGB, "PNG", pnginfo=marks)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decoded(data).pixels, wanted)
    np.testing.assert_array_equal(wanted, turned(RGB, orientation))
