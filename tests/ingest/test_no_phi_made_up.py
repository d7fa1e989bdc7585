"""Names, dates and numbers of people that nobody thought of: in paths, cells, columns and heads of recordings, and in no byte that ingest writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.ingest.made import ROOT
from tests.ingest.test_no_phi import everything

NAME = st.text(st.sampled_from("QqXxZzJjÄéöñß"), min_size=5, max_size=8)
DATE = st.dates().map(lambda d: d.strftime("%Y%m%d"))
NUMBER = st.integers(10_000_000, 99_999_999).map(str)
MADE = hypothesis.settings(
    max_examples=2, deadline=None, database=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def spec(disease: str, **limits: Any) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / f"{disease}.toml").model_dump(mode="json")
    raw["limits"] |= limits
    return DiseaseSpec.model_validate(raw)


def found_in(folders: list[Path], log: str, secrets: list[str]) -> list[tuple[str, str]]:
    """(secret, where): without regard to case, also decoded."""
    held = [("log", log.encode()), *everything(folders)]
    return [(s, where) for where, data in held for s in secrets if s.lower().encode() in data.lower() or s.encode() in data]


@MADE
@hypothesis.given(names=st.lists(NAME, min_size=3, max_size=3, unique=True), date=DATE, number=NUMBER, refused=st.booleans())
def test_pictures(
    tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str], names: list[str], date: str, number: str, refused: bool
):
    """In folders, file names, the table's cells, a column's name and a label; some files are damaged, some rows name nothing."""
    root = tmp_path_factory.mktemp("made")
    folder = root / "in" / names[0]
    folder.mkdir(parents=True)
    rows = [["image", "label", "patient", "device", "name", f"{names[1]} {date}"]]
    for n in range(16):
        file = f"{names[n % 3]}_{date}_{number}_{n}.png"
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / file)
        rows.append([f"{names[0]}/{file}", str(n % 2), f"{number}-{n // 2}", f"{names[2]}-room", names[1], date])
    (folder / file).write_bytes(b"no image")
    rows += [[f"{names[1]}/{date}.png", "0", number, "", names[0], ""], [rows[1][0], names[2], number, "", names[0], ""]]
    with open(root / "in" / "labels.csv", "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        what = spec("retinopathy-screening", quarantine_share=0.01 if refused else 1)
        error = ""
        try:
            ingest(what, str(root / "in"), dataset=root / "out" / "dataset", features=root / "out" / "features", workers=1)
        except DataError as caught:
            error = str(caught)
    assert bool(error) == refused
    text = "".join(capfd.readouterr()) + error
    folders = [root / "home"] + [root / "out"] * (not refused)
    assert sum(path.is_file() for f in folders for path in f.rglob("*")) > 0
    assert found_in(folders, text, [*names, date, number]) == []


@MADE
@hypothesis.given(names=st.lists(NAME, min_size=2, max_size=2, unique=True), date=DATE, number=NUMBER)
def test_tables(tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str], names: list[str], date: str, number: str):
    """The table's own name, a column and cells that stand where a number should."""
    root = tmp_path_factory.mktemp("made")
    (root / "in").mkdir()
    raw = spec("breast-cytology", quarantine_share=1).model_dump(mode="json")
    raw["input"] |= {"reader": "table-csv", "shape": [3], "columns": ["a", "b", "c"], "range": [0, 1000]}
    raw["split"] |= {"grouping": "patient"}
    rows = [["label", "patient", "a", "b", "c", names[0]]]
    rows += [[raw["target"]["classes"][n % 2], f"{names[1]}{n // 2}", str(n), str(n * n % 7), str(n % 3), date] for n in range(24)]
    rows += [[names[0], number, "1", "2", "3", ""], [raw["target"]["classes"][0], number, names[1], date, "3", ""]]
    with open(root / "in" / f"{names[0]} {date}.csv", "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        what = DiseaseSpec.model_validate(raw)
        info = ingest(what, str(root / "in"), dataset=root / "out" / "dataset", features=root / "out" / "features", workers=1)
    assert (info["counts"]["samples"], info["counts"]["quarantined"]) == (24, 2)
    assert found_in([root / "home", root / "out"], "".join(capfd.readouterr()), [*names, date, number]) == []
