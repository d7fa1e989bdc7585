"""What is not JSON and is often taken for it: the line says that this is it, and repeats nothing."""

from __future__ import annotations

import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from components.core.errors import DataError
from serving import wire

NOT_A_NUMBER = "a number is NaN or infinite, for which JSON has no word"
WRONG = {
    b'{"instances": [{"array": [[NaN]]}]}': NOT_A_NUMBER, b'{"inputs": [{"data": [1, -Infinity]}]}': NOT_A_NUMBER, b'{"a": 1e999}': NOT_A_NUMBER,
    b'{"a": "NaN", "b": nan}': NOT_A_NUMBER, b'{"a": Infinity': NOT_A_NUMBER, b'\xef\xbb\xbf{"inputs": []}': "it begins with a byte order mark",
    '{"inputs": []}'.encode("utf-16"): "it is not UTF-8", '{"a": "Müller"}'.encode("latin-1"): "it is not UTF-8",
}  # fmt: skip


@pytest.mark.parametrize("body", WRONG)
def test_the_line_says_what_is_no_json(body: bytes):
    for read in (wire.document, lambda text: wire.v2_request(text, {})):
        with pytest.raises(DataError) as error:
            read(body)
        assert str(error.value) == f"body: not JSON: {WRONG[body]}"


@pytest.mark.parametrize("body", [b'{"NaN": ', b'{"a": [1, 2,]}', b"{Miller", b"", b'{"a": "inf"'])
def test_other_damage_is_not_called_so(body: bytes):
    for read in (wire.document, lambda text: wire.v2_request(text, {})):
        with pytest.raises(DataError) as error:
            read(body)
        assert "NaN" not in str(error.value)
        assert "Miller" not in str(error.value)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    st.recursive(
        st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.text(), st.none(), st.booleans()),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_whatever_python_writes_is_read_or_said_to_hold_no_number(value: object):
    text = json.dumps({"a": value}, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return

    def whole(v: object) -> bool:
        if isinstance(v, float):
            return math.isfinite(v)
        return all(map(whole, v.values() if isinstance(v, dict) else v)) if isinstance(v, dict | list) else True

    if whole(value):
        assert wire.document(text.encode()) == {"a": value}
        return
    with pytest.raises(DataError, match=NOT_A_NUMBER):
        wire.document(text.encode())
