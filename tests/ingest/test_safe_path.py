"""Paths in quarantine: readable where nobody can be meant, hashed in every other part."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from components.core.imaging.slides import SUFFIXES
from components.ingest.deidentify import NAMES, known_names, path_pseudonym, safe_path, word_hashes
from tests.ingest.made import PSEUDONYMISER, lung_nodule

WORDS = word_hashes({"DOE JANE", "DOE", "JANE", "MRN-00417", "7", "19570314", "Normal"}, PSEUDONYMISER)


@pytest.mark.parametrize("path", ["CT", "images/Training/IMAGE.dcm", "README.txt", "testing/reference.csv", "labels.csv"])
def test_words_of_the_vocabulary_stay(path: str):
    assert safe_path(path, WORDS, PSEUDONYMISER) == path


def test_words_of_the_spec_stay():
    known = known_names(lung_nodule())
    assert safe_path("Benign/malignant.png/others", WORDS, PSEUDONYMISER, known).startswith("Benign/malignant.png/path-")


@pytest.mark.parametrize(
    "part",
    [
        "Doe", "JANE DOE", "doe_jane", "DoeJane", "x-jane-y.dcm", "normal", "normal.tif",
        "mrn00417", "MRN-00417_scan", "19570314", "7", "p_7.dcm", "0001.dcm", "IM12", "a7b", "1.2.840.10008.1.2", "1.2.840.10008.1.2.dcm",
    ],
)  # fmt: skip
def test_any_other_part_is_hashed(part: str):
    """Also a word of the vocabulary that is somebody's name in this source."""
    hashed = safe_path(f"CT/{part}/image.dcm", WORDS, PSEUDONYMISER)
    assert hashed == f"CT/{path_pseudonym(part, PSEUDONYMISER)}/image.dcm"
    suffix = "." + part.rsplit(".", 1)[1] if part.endswith((".dcm", ".tif")) else ""
    assert path_pseudonym(part, PSEUDONYMISER) == f"path-{PSEUDONYMISER.id('path', part)}{suffix}"


@hypothesis.settings(max_examples=300, deadline=None, database=None, derandomize=True)
@hypothesis.given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), min_size=1, max_size=4))
def test_no_part_of_any_path_stands_in_clear(parts: list[str]):
    """And two paths that differ anywhere stay two."""
    safe = safe_path("/".join(parts), set(), PSEUDONYMISER).split("/")
    assert len(safe) == len(parts)
    for part, shown in zip(parts, safe, strict=True):
        stem = part.rsplit(".", 1)[0].lower()
        assert shown.startswith("path-") or part.lower() in NAMES or stem in NAMES or stem.removesuffix(".nii") in NAMES
        assert shown.startswith(path_pseudonym(part, PSEUDONYMISER)) or shown == part


def test_words_are_kept_as_hashes_only():
    assert all(len(h) == 16 and int(h, 16) >= 0 for h, _ in WORDS)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".bmp", ".webp", ".pgm", ".ppm", ".pnm", ".pbm", ".tif", ".jpeg", ".png", ".npz", ".nii.gz", ".csv"])
def test_the_suffix_of_every_format_that_is_read_stays(suffix: str):
    """It says which reader would not take the file; what stands before it is hashed."""
    assert safe_path(f"Jane{suffix.upper()}", set(), PSEUDONYMISER) == f"path-{PSEUDONYMISER.id('path', f'Jane{suffix.upper()}')}{suffix}"
