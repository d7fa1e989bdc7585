"""Pictures: the fast way through a plain PNG gives what Pillow gives, and what it does not take goes Pillow's way."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from components.core.imaging.errors import NotUsable
from components.core.imaging.pictures import decode_picture

RGB = np.random.default_rng(0).integers(0, 256, (19, 30, 3), dtype=np.uint8)
EXIF = Image.Exif()
EXIF[0x010F], EXIF[0x0110] = "MAKER", "MODEL"
TEXT = PngInfo()
TEXT.add_text("Comment", "eXIf is only spoken of here")


def png(mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(out, "PNG", **options)
    return out.getvalue()


def deep() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(out, "PNG")
    return out.getvalue()


PLAIN = {"RGB": png(), "L": png("L")}


@pytest.mark.parametrize(
    "data",
    [png(), png("L"), png("P"), png("1"), png("RGBA"), png("LA"), png(transparency=(1, 2, 3)), png("L", transparency=3), png(exif=EXIF), deep(),
     png(optimize=True), png(pnginfo=TEXT), png(dpi=(72, 72))],
    ids=["RGB", "L", "P", "1", "RGBA", "LA", "RGB with a transparent colour", "L with a transparent level", "EXIF", "16 bits", "optimised", "text",
         "resolution"],
)  # fmt: skip
def test_pixels_are_pillows(data: bytes):
    found = decode_picture(io.BytesIO(data), most_pixels=10_000)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image if image.mode == "I;16" else image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    np.testing.assert_array_equal(found.pixels, wanted)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_png_goes_the_fast_way(mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("Pillow decodes"))
    decode_picture(io.BytesIO(plain := PLAIN[mode]), most_pixels=10_000)
    assert plain


def test_the_camera_of_a_png_is_read():
    found = decode_picture(io.BytesIO(png(exif=EXIF)), most_pixels=10_000)
    assert (found.maker, found.model) == ("MAKER", "MODEL")
    assert decode_picture(io.BytesIO(png()), most_pixels=10_000).maker == ""


def test_a_png_cut_short_or_damaged_is_refused_or_its_pixels_are_the_true_ones():
    data, rng = png(), np.random.default_rng(1)
    damaged = [data[:n] for n in range(0, len(data), 97)]
    for _ in range(200):
        one = bytearray(data)
        one[rng.integers(8, len(one))] = rng.integers(256)
        damaged.append(bytes(one))
    refused = 0
    for one in damaged:
        try:
            found = decode_picture(io.BytesIO(one), most_pixels=10_000)
        except NotUsable:
            refused += 1
            continue
        np.testing.assert_array_equal(found.pixels, RGB)
    assert refused > len(damaged) / 2


def test_the_decoder_is_told_nothing_that_it_could_quote(caplog: pytest.LogCaptureFixture):
    """libpng names a colour profile that it does not like, and its warnings are logged."""
    profile = zlib.compress(struct.pack(">I", 400) + np.random.default_rng(3).bytes(396))
    body = b"iCCP" + b"MILLER" + b"\0\0" + profile
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = png()
    found = decode_picture(io.BytesIO(data[:33] + chunk + data[33:]), most_pixels=10_000)
    np.testing.assert_array_equal(found.pixels, RGB)
    assert "MILLER" not in caplog.text


def test_a_picture_over_the_limit_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("imagecodecs.png_decode", lambda _: pytest.fail("decoded"))
    with pytest.raises(NotUsable, match="pixels_per_image"):
        decode_picture(io.BytesIO(png()), most_pixels=19 * 30 - 1)
