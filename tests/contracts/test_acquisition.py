"""The vocabulary of acquisition parameters against everything that writes one: readers, bodies, headers, the manifest, what a client may send."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core import acquisition
from components.core.dataset import MANIFEST
from components.core.errors import DataError, DxflowError, SpecError
from components.core.figure_words import Words
from components.core.inference_log import InferenceLog, compact, manifest, read_log, tables
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec, Input
from serving import told_words
from serving.queries import _acquisition
from tests.serving.small_package import lung_nodule

ROOT = Path(__file__).parents[2]
WRITERS = ("components/ingest/readers", "components/core/imaging", "components/core/chain", "serving/bodies", "components/ingest")
HASHES = Pseudonymiser(b"k" * 32)


def written() -> set[str]:
    """Names in the code that writes facts of samples: keys of dicts and of assignments."""
    found = set()
    for file in {path for folder in WRITERS for path in (ROOT / folder).glob("*.py")}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("acq_") and node.value != "acq_":
                found.add(node.value)
    return found


def test_the_vocabulary_is_what_is_written_and_nothing_else() -> None:
    assert written() == set(acquisition.PARAMETERS)
    assert {name for name in MANIFEST if name.startswith("acq_")} == set(acquisition.PARAMETERS)
    assert set(told_words.ACQUISITION) == set(acquisition.PARAMETERS) - set(acquisition.NUMBERS)


@pytest.mark.parametrize("name", acquisition.PARAMETERS)
def test_each_parameter_says_what_it_is(name: str) -> None:
    one = acquisition.PARAMETERS[name]
    assert set(one.modalities) <= set(get_args(Input.model_fields["modality"].annotation))
    assert one.words
    assert "_" not in one.words
    assert Words("CT", "image", "HU").name(name) == one.words
    assert (one.possible is None) == (MANIFEST[name] == "string")
    for unit, text in (("_mm", "mm"), ("_hz", "Hz"), ("_mas", "mAs"), ("_t", "T")):
        assert not name.endswith(unit) or one.unit == text


def test_a_limit_of_a_spec_that_no_sample_could_meet_is_refused() -> None:
    """A misspelled limit was never asked for: silently no limit at all."""
    for name in ("acq_slice_mm", "acq_kernel"):
        text = lung_nodule().model_dump() | {"abstain": {"acquisition": {name: (0, 1)}}}
        with pytest.raises((SpecError, ValueError), match="acquisition"):
            DiseaseSpec.model_validate(text)


# ---- names and values that clients make up ------------------------------------------------------------------------------------------------

NAMES = st.one_of(st.sampled_from(tuple(acquisition.PARAMETERS)), st.from_regex(r"acq_[a-z0-9_]{1,40}", fullmatch=True), st.text(max_size=30))
VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.integers(min_value=10**300), st.text(max_size=70), st.booleans(), st.none(),
    st.lists(st.floats()),
)  # fmt: skip


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(told=st.dictionaries(NAMES, VALUES, max_size=6))
def test_a_client_tells_known_names_and_possible_values_or_reads_one_line(told: dict[str, Any]) -> None:
    """What is taken is of the vocabulary; what is refused is never repeated."""
    try:
        found = _acquisition(told, "CT", HASHES, "instances[0].acquisition")
    except DataError as error:
        found, said = {}, str(error)
    else:
        said = ""
    assert set(found) <= set(acquisition.PARAMETERS)
    strange = [name for name in told if name not in acquisition.PARAMETERS]
    assert bool(said) or not strange
    assert not [word for word in (*strange, *(v for v in told.values() if isinstance(v, str))) if len(word) > 8 and word in said]
    for name, value in found.items():
        assert value is None or (acquisition.possible(name, value) if name in acquisition.NUMBERS else isinstance(value, str))


def test_the_line_names_what_is_allowed_for_the_modality() -> None:
    with pytest.raises(DxflowError, match=r"instances\[0\]: not names of acquisition parameters; got 2 unknown; allowed: .*acq_rate_hz$"):
        _acquisition({"acq_jane_doe": 1, "acq_b": 2, "acq_rate_hz": 40}, "sensor", HASHES, "instances[0]")
    with pytest.raises(DxflowError, match=r"a value that cannot be; got acq_kvp; allowed: 0 to 500 kV"):
        _acquisition({"acq_kvp": 120_000}, "CT", HASHES, "instances[0]")


RECORD = {"time": "2026-03-02T10:00:00+00:00", "request_id": "r", "model": "m", "status": "answered", "abstain": False, "reasons": []}


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(told=st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_an_old_record_is_never_a_new_column(told: dict[str, float]) -> None:
    row = tables.row(json.loads(json.dumps(RECORD | {"acquisition": told})))
    strange = [name for name in told if name not in acquisition.PARAMETERS]
    assert set(row) <= {*RECORD, *acquisition.PARAMETERS, tables.STRANGE}
    assert row.get(tables.STRANGE, 0) == len(strange)


def test_names_of_an_old_segment_are_left_out_and_counted_once(tmp_path: Path) -> None:
    """Compacted by a server that made a column of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with InferenceLog(tmp_path / "log") as log:
        log.append([RECORD | {"request_id": f"r{n}", "acquisition": {"acq_kvp": 120.0}} for n in range(30)])
    compact(tmp_path / "log")
    file = next((tmp_path / "log").glob("*.parquet"))
    table = pq.read_table(file)
    for n in range(10):
        table = table.append_column(f"acq_zz{n}", pa.array([float(n)] * (n + 1) + [None] * (29 - n)))
    pq.write_table(table, file)
    (tmp_path / "log" / manifest.MANIFEST).unlink()  # which such a server did not write
    found = read_log(tmp_path / "log")
    assert not [name for name in found.columns if name.startswith("acq_") and name != "acq_kvp"]
    assert found[tables.STRANGE].sum() == 55
    assert (found["acq_kvp"] == 120).all()
