"""Marks at the edges of an image on the reading page, against where a patient's sides are in the numbers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.imaging import laterality
from components.core.imaging.nifti import Volume
from components.core.imaging.resample import head_on_grid
from serving.predictor import Query
from serving.queries import from_raw
from serving.reading.cases import CaseStore, now
from serving.reading.pages import GRID
from tests.serving import small_bodies
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import lung_nodule
from tests.serving.test_handles import KEY


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_head_is_shown_with_the_patients_sides_where_they_are(order: tuple[int, int, int], flips: tuple[int, int, int]):
    """A head with a bright spot on the patient's left, front and top, in files whose axes lie in every way."""
    data = np.asarray(small_bodies.head(shape=(48, 56, 48), mm=3.5), np.float32)  # axes right, front, head
    spot = np.zeros_like(data)
    spot[12:16, 36:40, 30:34] = 1  # low index of the first axis: left
    data = np.where(spot > 0, data.max(), data * 0.5)
    affine = np.diag([3.5, 3.5, 3.5, 1.0])
    affine[:3, 3] = [-84, -98, -84]
    turned, own = data.transpose(order), affine.copy()
    own[:, :3] = affine[:, list(order)]
    for axis, sign in enumerate(flips):
        if sign < 0:
            turned = np.flip(turned, axis)
            own[:3, 3] += own[:3, axis] * (turned.shape[axis] - 1)
            own[:3, axis] *= -1
    grid = head_on_grid(Volume(np.ascontiguousarray(turned), own, 16, ""), shape=(40, 48, 40), spacing_mm=(4, 4, 4))
    depth, row, column = (c.mean() for c in np.nonzero(grid > 0.9 * grid.max()))
    assert GRID is not None
    left, right, top, bottom = GRID
    assert {left, right} == {"L", "R"}
    assert {top, bottom} == {"A", "P"}
    assert (left == "L") == (column < 20), "the spot lies on the patient's left"
    assert (top == "A") == (row < 24), "and in front"
    assert depth > 20, "slices run to the head"


@pytest.mark.parametrize(
    "orientation", [[1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, -1, 0], [0, 1, 0, -1, 0, 0], [0.9848, 0, 0.1736, 0, 1, 0], None]
)
def test_a_ct_slice_keeps_its_orientation_from_the_file_to_the_page(orientation: list[float] | None, tmp_path: Path):
    changes: dict[str, Any] = {"ImageOrientationPatient": orientation}
    headers = {"content-type": "application/dicom", "x-dxflow-row": "100", "x-dxflow-column": "100"}
    (query,) = from_raw(ct_slice(image(), **changes), headers, lung_nodule(), KEY)
    assert query.edges == laterality.edges(orientation)
    store = CaseStore(tmp_path)
    answer = {"disease": "lung-nodule", "request_id": "0" * 32, "abstain": True, "probabilities": {}, "decision": None}
    name = store.add(query, answer, ["malignant"], now())
    assert store.get(name)[1].edges == (None if query.edges is None else list(query.edges))
    assert store.get(store.add(Query(query.array), answer, [], now()))[1].edges is None
    store.close()
