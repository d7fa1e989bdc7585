"""Two classes of a disease of several."""

from __future__ import annotations

import pytest

from components.core.errors import SpecError
from pipelines import catalog


def test_a_pair_differs_from_its_disease_in_name_target_and_metrics_alone():
    whole, two = catalog.load("alzheimer-smri"), catalog.load("alzheimer-smri:control,ad")
    assert two.name == "alzheimer-smri-control-ad"
    assert (two.target.kind, two.target.classes, two.target.positive) == ("binary", ("control", "ad"), "ad")
    assert {"mci", "emci", "lmci", "1", "mild cognitive impairment"} == set(two.target.left_out)
    assert (two.target.aliases["cn"], two.target.aliases["2"]) == ("control", "ad")
    assert two.metrics == ("auc", "accuracy")
    changed = {"name", "title", "target", "metrics"}
    assert two.model_dump(exclude=changed) == whole.model_dump(exclude=changed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alzheimer-smri:control,dementia", "not a pair of classes.*two of control, mci, ad"),
        ("alzheimer-smri:ad,ad", "not a pair of classes"),
        ("alzheimer-slices:non,mild,moderate", "not a pair of classes"),
        ("none-such:control,ad", "No disease 'none-such'"),
        ("retinopathy-grading:0,1", "no(t a)? pair"),
    ],
)
def test_what_is_no_pair_is_refused(name: str, message: str):
    with pytest.raises(SpecError, match=message):
        catalog.load(name)
