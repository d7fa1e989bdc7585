"""What a server says at its start of a check that it cannot make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core import image_quality
from components.core.likeness import Likeness
from components.core.outside import JUDGED, OLDER, SWITCHED_OFF, TOO_FEW, floors, vector
from serving.places import Places
from serving.sources import from_folder
from tests.serving.small_package import build, lung_nodule, reference

TABLE = reference({"a" * 16: ("SIEMENS", "X")}, patients=3)
NONE: dict[str, Any] = {"image": None, "network": None}


@pytest.mark.parametrize(
    ("outside", "more", "check"), [(1.0, {}, OLDER), (0, {"outside.json": NONE}, SWITCHED_OFF), (1.0, {"outside.json": NONE}, TOO_FEW)]
)
def test_where_images_of_something_else_are_not_told_the_start_says_so(
    outside: float, more: dict[str, Any], check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"}, abstain={"outside": outside})
    places = Places([from_folder(build(tmp_path / "p", spec, TABLE, more=more).folder)], allow_synthetic=False)
    assert places.by_name["lung-nodule"].holder().check == check
    out, error = capsys.readouterr()
    version = places.by_name["lung-nodule"].holder().package.version
    assert f"loaded lung-nodule {version} as lung-nodule" in out
    line = "Images of something else are answered as if they were in order, for nothing tells them apart"
    assert error == f"lung-nodule {version}: {line} ({check}).\n"
    assert check != JUDGED


def test_where_they_are_told_there_is_no_such_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"}, abstain={"outside": 1.0})
    x = np.random.default_rng(0).normal(-500, 100, (60, *spec.input.shape)).astype(np.float32)
    names, rows = vector(x, image_quality.figures(x, spec), spec)
    groups = [str(n // 2) for n in range(60)]
    measure = Likeness.fit(names, rows, groups, ["d"] * 60, floor=floors(names), level=0.99)
    assert measure is not None
    more = {"outside.json": {"image": measure.to_dict(), "network": None}}
    places = Places([from_folder(build(tmp_path / "p", spec, TABLE, more=more).folder)], allow_synthetic=False)
    assert places.by_name["lung-nodule"].holder().check == JUDGED
    assert capsys.readouterr().err == ""
