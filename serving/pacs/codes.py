"""Codes of report and overlay that are no part of a disease, and the texts that stand in every report."""

from __future__ import annotations

from typing import Any

from components.core.pacs_rules import Code

SCHEME = "99DXFLOW"
DECISION: Code = ("decision", SCHEME, "Decision of the algorithm")
UNDECIDED: Code = ("373068000", "SCT", "Undetermined")
DETECTION: Code = ("detection", SCHEME, "Probability that it is a finding")
COUNT: Code = ("count", SCHEME, "Number of findings")
THRESHOLD: Code = ("threshold", SCHEME, "Decision threshold")
EVALUATIONS: Code = ("C0034375", "UMLS", "Qualitative Evaluations")
COMMENT: Code = ("121106", "DCM", "Comment")
CONCLUSION: Code = ("121077", "DCM", "Conclusion")
DEEP_LEARNING: Code = ("123110", "DCM", "Artificial Intelligence")
MORPHOLOGY: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")

ASSISTS = (
    "Made by a computer program and not verified by anybody. It assists the physician and does not replace the physician's reading: "
    "findings may be missed and normal structures marked."
)
SYNTHETIC = "SYNTHETIC: the images, the model or the detector were simulated or fitted on simulated data. Not for use on patients."


def coded(code: Code) -> Any:
    """As highdicom takes it."""
    import highdicom as hd

    return hd.sr.CodedConcept(*code)


def own_scheme() -> Any:
    """What the private codes' scheme is called, for Coding Scheme Identification (PS3.3 C.12.1.1.1)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName, item.CodingSchemeResponsibleOrganization = SCHEME, "Codes of dxflow", "dxflow"
    return item
