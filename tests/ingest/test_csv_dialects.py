"""One table in every dialect of CSV: the same samples at ingest and at the server, or one line that names the dialect; never another number."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.core.text_table import Lines, number
from components.ingest.step import ingest
from serving import bodies
from serving.bodies.body import Body
from tests.ingest.clocks import SPEC as GAIT
from tests.ingest.clocks import walk
from tests.ingest.made import PSEUDONYMISER
from tests.ingest.test_tables import small
from tests.serving import small_bodies

TABLE = small(3)
VALUES = np.random.default_rng(0).normal(0, 50, (24, 3)).round(3)
DIALECTS = [
    dict(zip(("separator", "decimal", "end", "mark", "named", "last", "quoted"), one, strict=True))
    for one in itertools.product(",;\t", ".,", ("\n", "\r\n", "\r"), (False, True), (False, True), (False, True), (False, True))
    if one[0] != "," or one[1] == "."
]


def written(rows: list[list[str]], *, separator: str, decimal: str, end: str, mark: bool, named: bool, last: bool, quoted: bool) -> bytes:
    """Rows in a dialect. Args: mark: the bytes EF BB BF first. named: Excel's line `sep=`. last: the last line has an end. quoted: every field."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    for row in rows:
        writer.writerow([word.replace(".", decimal) for word in row])
    text = (f"sep={separator}{end}" if named else "") + out.getvalue()
    return (b"\xef\xbb\xbf" if mark else b"") + (text if last else text.removesuffix(end)).encode()


def table() -> list[list[str]]:
    rows = [[f"P{n}", str(n % 2), *(f"{v:.3f}" for v in row)] for n, row in enumerate(VALUES)]
    return [["patient", "label", "a", "b", "c"], *rows]


def at_ingest(content: bytes, folder: Path, spec: DiseaseSpec, name: str = "table.csv") -> tuple[np.ndarray, Dataset]:
    """The samples in the order of the file."""
    (folder / "in").mkdir(parents=True)
    (folder / "in" / name).write_bytes(content)
    ingest(spec, str(folder / "in"), dataset=folder / "dataset", features=folder / "features", workers=1)
    data = Dataset(folder / "dataset")
    return data.read(np.arange(len(data))), data


def at_the_server(content: bytes, spec: DiseaseSpec) -> np.ndarray:
    return np.stack([query.array for query in bodies.read("text/csv", Body(content), spec, PSEUDONYMISER)])


@pytest.mark.parametrize("dialect", DIALECTS[:: len(DIALECTS) // 7])
def test_a_table_is_the_same_at_both_ends(dialect: dict, tmp_path: Path):
    """Every number, whatever separates them, marks decimals, ends lines or stands around fields."""
    content = written(table(), **dialect)
    found, data = at_ingest(content, tmp_path, TABLE)
    assert len(data.quarantine) == 0
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(VALUES.astype(np.float32), axis=0))
    np.testing.assert_array_equal(at_the_server(content, TABLE), VALUES.astype(np.float32))


def test_every_dialect_at_the_server():
    plain = VALUES.astype(np.float32)
    for dialect in DIALECTS:
        np.testing.assert_array_equal(at_the_server(written(table(), **dialect), TABLE), plain, err_msg=str(dialect))


def test_every_dialect_of_a_recording():
    """Windows of a recording, also those of its last line without an end."""
    made = walk(WINDOWS_S, 40)
    rows = [row.split(",") for row in made.text().splitlines()]
    plain = at_the_server(made.text().encode(), GAIT)
    assert len(plain) == 2
    for dialect in DIALECTS[::3]:
        np.testing.assert_allclose(at_the_server(written(rows, **dialect), GAIT), plain, err_msg=str(dialect))


WINDOWS_S = (204 + 51) / 40


@pytest.mark.parametrize("dialect", DIALECTS[1 :: len(DIALECTS) // 4])
def test_a_recording_is_the_same_at_both_ends(dialect: dict, tmp_path: Path):
    made = walk(30, 64)
    rows = [[*row.split(","), "N" if n == 0 else "1"] for n, row in enumerate(made.text().splitlines())]
    content = written(rows, **dialect)
    raw = GAIT.model_dump(mode="json")
    spec = DiseaseSpec.model_validate(raw | {"split": raw["split"] | {"folds": 1}, "limits": raw["limits"] | {"quarantine_share": 1}})
    found, data = at_ingest(content, tmp_path, spec, "S01R01.csv")
    order = np.argsort(data.manifest["place"].str[0].to_numpy())
    np.testing.assert_array_equal(found[order], at_the_server(content, spec))


@pytest.mark.parametrize("last", ["\n", ""])
def test_a_last_line_without_its_end_is_a_row(last: str):
    """204 rows at 40 Hz are one window, with the last end of line and without; a row that was cut is none."""
    text = walk(204 / 40, 40).text().rstrip("\n")
    assert len(at_the_server((text + last).encode(), GAIT)) == 1
    with pytest.raises(DataError, match=r"no window.*the file ends within a row"):
        at_the_server(text.rsplit(",", 1)[0].encode(), GAIT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("x;y\n1,5;2\n", "another number of features"),
        ("a;b;c\n1,5;2;3\n1.500;2;3\n", "row 1: a value that is not a finite number"),
        ("a,b,c\n1_000,2,3\n", "another number of features"),
        ("a,b,c\n1,2,3\n1_000,2,3\n", "row 1: a value that is not a finite number"),
        ('a,b,c\n1,2,3\n"1,500",2,3\n', "row 1: a value that is not a finite number"),
        ("a,b,c\n1,2,3\n1,5,2,3\n", "row 1: another number of values than of columns"),
        ("a,b,c\n1,2,3\n0x10,2,3\n", "row 1: a value that is not a finite number"),
        ("a,b,c\n1,2,3\n\u0661\u0662,2,3\n", "row 1: a value that is not a finite number"),
        ("a;b;c\n1;2;3\n1.234,5;2;3\n", "row 1: a value that is not a finite number"),
    ],
)
def test_what_may_be_another_number_is_none(content: str, reason: str):
    with pytest.raises(DataError, match=reason):
        at_the_server(content.encode(), TABLE)


@pytest.mark.parametrize("kind", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(kind: str, tmp_path: Path):
    """What Excel calls Unicode text."""
    content = ("\ufeff" + "\n".join(",".join(row) for row in table())).encode(kind)
    with pytest.raises(DataError, match="UTF-16; allowed: UTF-8"):
        at_the_server(content, TABLE)
    with pytest.raises(DataError, match="UTF-16; allowed: UTF-8"):
        at_ingest(content, tmp_path, TABLE)
    with pytest.raises(DataError, match="UTF-16; allowed: UTF-8"):
        at_the_server(("\ufeff" + walk(8, 64).text()).encode(kind), GAIT)


def test_decimal_commas_between_commas_are_named():
    lines = walk(10, 64).text().splitlines()
    content = "\n".join([lines[0], *(line.replace(".", ",") for line in lines[1:])]) + "\n"
    with pytest.raises(DataError, match="decimal commas in a table that commas separate"):
        at_the_server(content.encode(), GAIT)


def test_rows_of_more_values_than_columns_are_told_and_not_left_out():
    lines = walk(20, 64).text().splitlines()
    for n in (1, 2, 700, 1280):
        lines[n] += ",5"
    found = bodies.read("text/csv", Body(("\n".join(lines) + "\n").encode()), GAIT, PSEUDONYMISER)
    assert found[0].recording is not None
    assert found[0].recording["not_judged_s"]["values that are no numbers"] == pytest.approx(4 / 64, abs=1e-3)
    assert found[0].recording["seconds"] == pytest.approx(20, abs=0.05)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([".", ","]), st.sampled_from(["{!r}", "{:.3f}", "{:e}", "{:+.1f}"])
)
def test_a_number_is_itself_or_none(value: float, decimal: str, form: str):
    """Read with its own mark it is what Python reads; with the other mark it is never another number."""
    text = form.format(value)
    other = "," if decimal == "." else "."
    assert number(text.replace(".", decimal), decimal) == float(text)
    assert number(text.replace(".", other), decimal) in (None, float(text))
    if "." in text:
        assert number(text.replace(".", other), decimal) is None


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0\r\n"), min_size=1, max_size=9), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([d for d in DIALECTS if d["decimal"] == "."]),
)
def test_words_come_out_as_they_were_written(rows: list[list[str]], dialect: dict):
    """Separators, quotes and blanks inside of fields are no dialect; what is sent through Excel's own writer comes out again."""
    header = ["patient", "note", "label"]
    content = written([header, *rows], **(dialect | {"quoted": True}))
    with Lines(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig")) as lines:
        plain = [[word.replace(".", dialect["decimal"]) for word in row] for row in [header, *rows]]
        assert list(csv.reader(lines)) == plain


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.text("+-.,eE01nNaAiIfFtTyY_ ", max_size=9), st.sampled_from([".", ","]))
@example("+-nan", ".")
@example("--inf", ".")
def test_no_word_stops_the_reading_of_a_table(word: str, decimal: str):
    """`+-nan` was taken for nan, and Python does not read it: the server called the table a defect of its own."""
    found = number(word, decimal)
    assert found is None or isinstance(found, float)


def test_a_table_of_words_that_look_like_numbers_is_refused_by_row():
    rows = small_bodies.table().split(b"\n")
    rows[1] = b"+-nan," + rows[1].partition(b",")[2]
    with pytest.raises(DataError, match="a value that is not a finite number"):
        bodies.read("text/csv", Body(b"\n".join(rows)), small_bodies.disease(small_bodies.TABLE), PSEUDONYMISER)
