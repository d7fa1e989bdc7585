"""Which judge `dxflow pacs` gives a model: by its samples, for every disease with a [pacs] part, and a reason for the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.core.errors import SpecError
from components.core.pseudonym import Pseudonymiser
from pipelines import catalog
from serving.pacs.chest_ct import ChestCt
from serving.pacs.head_mr import HeadMr
from serving.pacs.photograph import Photographs
from serving.pacs.run import station

KEY = Pseudonymiser(b"a key of the tests only")
JUDGES = {"lung-nodule": ChestCt, "retinopathy-screening": Photographs, "retinopathy-grading": Photographs, "alzheimer-smri": HeadMr}


def model(name: str) -> Any:
    """All that a station asks of a model before there is a study."""
    return SimpleNamespace(spec=catalog.load(name))


@pytest.mark.parametrize("name", catalog.names())
def test_every_disease_with_rules_has_its_judge_and_codes_for_all_its_decisions(name: str):
    asked = model(name)
    rules = asked.spec.pacs
    if rules is None:
        assert name not in JUDGES
        with pytest.raises(SpecError, match=r"no \[pacs\] part"):
            station(asked, rules, KEY, own_detector=None, allow_synthetic=True)
        return
    assert isinstance(station(asked, rules, KEY, own_detector=None, allow_synthetic=True).judge, JUDGES[name])
    assert set(rules.decisions) == set(asked.spec.target.classes)


def test_a_model_for_rows_of_a_table_cannot_be_asked_about_images():
    with pytest.raises(SpecError, match="CT patches, photographs, MR volumes"):
        station(model("breast-cytology"), catalog.load("lung-nodule").pacs, KEY, own_detector=None, allow_synthetic=True)
