"""What stands beside the hashed files decides the version that answers tell and whose answers are the model's own: it is as written, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core import registration
from components.core.errors import DataError

DIGEST, OLD = "a1" * 32, "b2" * 32
RECORD = {"name": "lung-nodule", "version": "3", "digest": DIGEST, "uri": "file:///x", "replaces": [OLD], "synthetic": False}


def write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / registration.NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_what_was_written_is_read_and_none_is_none(tmp_path: Path):
    assert registration.read(tmp_path, DIGEST) == {}
    assert registration.read(write(tmp_path, registration.text(RECORD)), DIGEST) == RECORD
    again = registration.text(registration.read(tmp_path, DIGEST))
    assert again == registration.text(RECORD)


def test_each_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path):
    """1 to 3 is one bit: version 1 was told as 3."""
    whole = registration.text(RECORD).encode()
    read = 0
    for n in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[n // 8] ^= 1 << n % 8
        try:
            assert registration.read(write(tmp_path, bytes(damaged)), DIGEST) == RECORD
            read += 1
        except DataError:
            pass
    assert read < len(whole)  # white space, of which the seal says nothing


BAD = st.one_of(
    st.fixed_dictionaries({"digest": st.just(DIGEST), "version": st.one_of(st.integers(), st.text(alphabet="v.-x <", min_size=1))}),
    st.fixed_dictionaries({"digest": st.just(DIGEST), "replaces": st.one_of(st.text(), st.lists(st.text(max_size=63), min_size=1))}),
    st.fixed_dictionaries({"digest": st.text(max_size=63), "version": st.just("1")}),
    st.lists(st.integers()), st.integers(), st.text(),
)  # fmt: skip


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(BAD)
def test_what_is_not_of_the_form_is_refused_also_without_a_seal(tmp_path_factory: pytest.TempPathFactory, found: object):
    with pytest.raises(DataError):
        registration.read(write(tmp_path_factory.mktemp("p"), json.dumps(found)), DIGEST)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "x", "", " " * (registration.MAX_BYTES + 1)])
def test_deep_endless_and_no_json_is_one_line(tmp_path: Path, text: str):
    with pytest.raises(DataError, match="not what register wrote"):
        registration.read(write(tmp_path, text), DIGEST)


def test_a_package_with_a_changed_registration_is_not_served(tmp_path: Path):
    from components.core.package import ModelPackage
    from tests.serving.small_package import build, lung_nodule, reference

    package = build(tmp_path / "p", lung_nodule(), reference({"0" * 16: ("SIEMENS", "X")}))
    write(package.folder, registration.text({"version": "1", "digest": package.digest}))
    assert ModelPackage.open(package.folder).version == "1"
    write(package.folder, registration.text({"version": "1", "digest": package.digest}).replace('"version": "1"', '"version": "3"'))
    with pytest.raises(DataError, match=r"registration.json: not what register wrote"):
        ModelPackage.open(package.folder)
