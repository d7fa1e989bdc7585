"""What an S3 answer's headers promise of its bytes."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.storage_sums import Arriving

DATA = b"what was stored"
MD5 = f'"{hashlib.md5(DATA).hexdigest()}"'
CRC = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()
SHA = base64.b64encode(hashlib.sha256(DATA).digest()).decode()


def came(headers: dict[str, str], data: bytes) -> bool:
    arriving = Arriving(headers)
    for at in range(0, len(data), 4):
        arriving.update(data[at : at + 4])
    return arriving.holds()


@pytest.mark.parametrize(
    "headers", [{"ETag": MD5}, {"x-amz-checksum-crc32": CRC}, {"x-amz-checksum-sha256": SHA}, {"ETag": MD5, "x-amz-checksum-crc32": CRC}]
)
def test_each_of_them_is_asked_for(headers: dict[str, str]) -> None:
    assert Arriving(headers).known
    assert came(headers, DATA)
    assert not came(headers, DATA[:-1])
    assert not came(headers, DATA[:-1] + b"e")


@pytest.mark.parametrize(
    "headers",
    [{}, {"ETag": MD5[:-1] + '-2"'}, {"ETag": '"not one"'}, {"x-amz-checksum-crc32": CRC + "-2"}, {"x-amz-checksum-sha256": "AAAA"},
     {"ETag": MD5, "x-amz-server-side-encryption": "aws:kms"}, {"ETag": MD5, "x-amz-server-side-encryption-customer-algorithm": "AES256"}],
)  # fmt: skip
def test_what_is_no_checksum_of_the_bytes_is_not_taken_for_one(headers: dict[str, str]) -> None:
    assert not Arriving(headers).known
    assert came(headers, b"anything")


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 1 << 30))
def test_no_flipped_bit_passes(data: bytes, bit: int) -> None:
    turned = bytearray(data)
    turned[bit // 8 % len(data)] ^= 1 << bit % 8
    headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
    assert came(headers, data)
    assert not came(headers, bytes(turned))
