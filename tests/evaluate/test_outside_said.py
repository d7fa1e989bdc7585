"""What the report says of the check for images of something else is what registration will find."""

from __future__ import annotations

import pytest

from components.core.outside import JUDGED, TOO_FEW, sentence
from components.evaluate.report import _of_something_else
from tests.serving.small_package import lung_nodule


@pytest.mark.parametrize(
    ("counts", "check"),
    [
        ({"samples": 60, "groups": 20, "train": 40, "val": 10, "test": 10}, JUDGED),
        ({"samples": 40, "groups": 40, "train": 40, "val": 0, "test": 0}, JUDGED),
        ({"samples": 1020, "groups": 1020, "train": 10, "val": 5, "test": 5, "external-clinic": 1000}, TOO_FEW),
        ({"samples": 1000, "groups": 4, "train": 600, "val": 200, "test": 200}, TOO_FEW),
    ],
)
def test_samples_of_external_sets_do_not_count(counts: dict[str, int], check: str) -> None:
    spec = lung_nodule(abstain={"outside": 1.0})
    assert _of_something_else(spec, counts) == sentence(check, spec)
