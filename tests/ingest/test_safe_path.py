"""Paths in quarantine: readable where nobody is named, hashed where somebody may be."""

from __future__ import annotations

import pytest

from components.ingest.deidentify import path_pseudonym, safe_path, word_hashes
from tests.ingest.made import PSEUDONYMISER

WORDS = word_hashes({"DOE JANE", "DOE", "JANE", "MRN-00417", "7", "19570314"}, PSEUDONYMISER)


@pytest.mark.parametrize("path", ["CT/0001.dcm", "export 2024/series_3/IM12", "README.txt", "a7b/17.dcm"])
def test_a_path_without_words_stays(path: str):
    assert safe_path(path, WORDS, PSEUDONYMISER) == path


@pytest.mark.parametrize(
    "part",
    [
        "Doe", "JANE DOE", "doe_jane", "DoeJane", "x-jane-y.dcm",
        "mrn00417", "MRN-00417_scan", "19570314", "7", "p_7.dcm", "1.2.840.10008.1.2", "1.2.840.10008.1.2.dcm",
    ],
)  # fmt: skip
def test_a_part_that_holds_a_word_is_hashed(part: str):
    hashed = safe_path(f"CT/{part}/0001.dcm", WORDS, PSEUDONYMISER)
    assert hashed == f"CT/{path_pseudonym(part, PSEUDONYMISER)}{'.dcm' if part.endswith('.dcm') else ''}/0001.dcm"


def test_words_are_kept_as_hashes_only():
    assert all(len(h) == 16 and int(h, 16) >= 0 for h, _ in WORDS)
