"""Which checks a disease's dataset must pass, made from its spec.

Great Expectations' own in-set, between and unique expectations hold for empty and all-null columns, so every column that they look at also
has a not-null check where the spec needs it, and the suite a row count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from components.core.dataset import MANIFEST
from components.core.imaging.plausibility import PLAUSIBLE
from components.core.spec import DiseaseSpec
from components.validate.checks import NEAR_DETAIL

FINDING = "ExpectFinding"
Severity = Literal["critical", "warning"]

MODALITIES = {"CT": ["CT"], "MR": ["MR"], "MG": ["MG"], "DX": ["DX", "CR"]}
PHOTOMETRIC = ["MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"]
NEEDED = ("sample_id", "group_id", "device_key", "split", "content_hash", "near_hash", "constant_share", "synthetic", "shard", "offset")


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        id: Stable name.
        section: Where the page shows it.
        severity: What a miss means: `critical` fails the dataset, `warning` does not.
        says: The claim.
        why: What goes wrong when it does not hold.
        kind: A class of `great_expectations.expectations`, or `FINDING` for a function of `checks.py`.
        options: Its arguments.
    """

    id: str
    section: str
    severity: Severity
    says: str
    why: str
    kind: str = FINDING
    options: dict[str, Any] = field(default_factory=dict)


def schema_checks() -> list[Check]:
    """Run first: where the columns are not the contract's, nothing else can be asked."""
    contract = "Later steps read these columns by name; another layout is another version of the contract."
    private = "A name, a birth date or a record number has no place behind the door of ingest."
    return [
        Check(
            "columns",
            "Contract",
            "critical",
            "The manifest has exactly the contract's columns",
            contract,
            "ExpectTableColumnsToMatchOrderedList",
            {"column_list": list(MANIFEST)},
        ),
        Check("private_columns", "Privacy", "critical", "No column is named after a person's data", private),
    ]


def checks(spec: DiseaseSpec) -> list[Check]:
    """All further checks, in the order of the page."""
    return [*_contract(spec), *_privacy(), *_labels(spec), *_leakage(spec), *_acquisition(spec), *_devices(spec), *_pixels(spec)]


def _contract(spec: DiseaseSpec) -> list[Check]:
    missing = "A sample without this can be neither split, read nor judged."
    section = "Contract"
    out = [
        Check(
            "rows",
            section,
            "critical",
            "There are samples",
            "An empty table passes every other check.",
            "ExpectTableRowCountToBeBetween",
            {"min_value": 1},
        ),
        Check("counts", section, "critical", "dataset.json, manifest and splits agree in number", "A half-written or edited dataset."),
        Check("same_spec", section, "warning", "The dataset was made with this very spec", "Shape, labels or splits may follow an older spec."),
        Check(
            "one_origin",
            section,
            "critical",
            "All samples are synthetic, or none is, and dataset.json says which",
            "A phantom must never pass for a patient.",
        ),
        Check(
            "unique_samples",
            section,
            "critical",
            "No sample id occurs twice",
            "A sample counted twice.",
            "ExpectColumnValuesToBeUnique",
            {"column": "sample_id"},
        ),
        Check("set_aside", section, "warning", "Few files were set aside at ingest", "What could not be read may not be missing at random."),
    ]
    needed = NEEDED + (("patient_id",) if spec.split.grouping in ("patient", "lesion") else ())
    return out + [_not_null(column, section, "critical", missing) for column in needed]


def _privacy() -> list[Check]:
    why = "Ingest lets only numbers, defined codes and names from a vocabulary pass; text that looks like a person's got past it."
    return [Check("private_text", "Privacy", "critical", "No text looks like a name, a date, an address or a record number", why)]


def _labels(spec: DiseaseSpec) -> list[Check]:
    section, kind, classes = "Labels and splits", spec.target.kind, spec.target.classes
    out = [
        Check(
            "split_names",
            section,
            "critical",
            f"Every split is {', '.join(spec.manifest_splits[:-1])} or {spec.manifest_splits[-1]}",
            "A sample of another split is never used.",
            "ExpectColumnValuesToBeInSet",
            {"column": "split", "value_set": list(spec.manifest_splits)},
        ),
        Check(
            "splits_filled",
            section,
            "critical",
            "No split is empty",
            "Without validation no threshold can be chosen; without test nothing can be claimed.",
        ),
    ]
    if spec.split.folds != 1:
        out.append(
            Check("folds_filled", section, "critical", "Every sample is test in exactly one fold", "Pooled figures would leave some samples out.")
        )
    if kind == "multilabel":
        out.append(Check("labels_fit", section, "critical", "Every sample has one 0 or 1 per class", "A label that training cannot read."))
    if kind in ("multilabel", "dense"):
        return out
    index = list(range(len(classes)))
    unlabelled = "A sample without a label can be neither learnt from nor judged."
    return [
        *out,
        Check("labels_present", section, "critical", "Every sample has a label, but for sets that only pre-training sees", unlabelled)
        if any(e.role == "pretrain" for e in spec.external)
        else _not_null("label", section, "critical", unlabelled),
        Check(
            "label_values",
            section,
            "critical",
            f"Every label is one of {len(classes)} classes",
            "A label outside the spec's classes.",
            "ExpectColumnValuesToBeInSet",
            {"column": "label", "value_set": index},
        ),
        Check("classes_trained", section, "critical", "Every class occurs in train", "A class never seen cannot be learnt."),
        Check("classes_judged", section, "warning", "Every class occurs in val and test", "Nothing can be said about a class that is not there."),
        Check(
            "class_shares", section, "warning", "Classes are about as common in every split", "Predictive values and thresholds move with prevalence."
        ),
    ]


def _leakage(spec: DiseaseSpec) -> list[Check]:
    section = "Leakage"
    # Without groups nothing can be claimed of leakage, so a copy only warns; the verdict on the model is at most "insufficient evidence".
    severity: Severity = "warning" if spec.split.grouping == "none" else "critical"
    detail = 1
    for size in spec.input.shape:
        detail *= size
    near: Severity = severity if detail >= NEAR_DETAIL else "warning"
    word = spec.split.grouping if spec.split.grouping != "none" else "group"
    one = "row" if spec.input.layout == "table" else "image"
    out = [
        Check(
            "groups_apart",
            section,
            severity,
            f"No {word} stands in two splits"
            + (" or folds" if spec.split.folds != 1 else "")
            + (" or in an external set too" if spec.external else ""),
            "The model would be tested on what it has learnt by heart; figures come out too good.",
        ),
        Check("copies_across", section, severity, f"No {one} stands in two splits", "The same values in training and test inflate every figure."),
        Check(
            "copies_within",
            section,
            "warning",
            f"No {one} repeats within its split",
            "Copies count one case several times and make intervals too narrow.",
        ),
    ]
    if spec.input.layout != "table":  # few columns correlate by chance
        says, why = "No near-copy of an image stands in another split", "Recompressed or re-exported copies leak like copies."
        out.insert(2, Check("near_copies", section, near, says, why))
    if spec.split.grouping == "none" and spec.input.layout in ("image", "volume") and detail >= NEAR_DETAIL:
        why = "Slices or views of one person on both sides: the model recognises the person, and figures come out too good. Nothing names the groups."
        out.append(Check("siblings_across", section, "warning", "Test samples have no siblings (neighbouring slices, views) in training", why))
    if spec.split.grouping == "lesion":
        out.insert(
            1, Check("patients_apart", section, "warning", "No patient stands in two splits", "Two lesions of one patient resemble each other.")
        )
    if spec.target.kind not in ("multilabel", "dense"):
        out.append(Check("contradictions", section, "warning", f"No {one} carries two labels", "One of the labels is wrong."))
    return out


def _acquisition(spec: DiseaseSpec) -> list[Check]:
    section, modality = "Acquisition", spec.input.modality
    out = [Check("dates", section, "warning", "Dates are plausible", "A date of 1800 is a default value; profiles are read by date.")]
    if not spec.input.reader.startswith("dicom"):
        return out
    header = "The reader takes this from the header; without it nobody can tell what was measured."
    for column in ("acq_modality", "acq_rows", "acq_columns", "acq_bits", "acq_photometric"):
        out.append(_not_null(column, section, "critical" if column == "acq_modality" else "warning", header))
    other = "Another modality means other intensities."
    out += [
        Check(
            "modality",
            section,
            "critical",
            f"Every image is {' or '.join(MODALITIES.get(modality, [modality]))}",
            other,
            "ExpectColumnValuesToBeInSet",
            {"column": "acq_modality", "value_set": MODALITIES.get(modality, [modality])},
        ),
        Check(
            "photometric",
            section,
            "warning",
            "The photometric interpretation is one that DICOM defines",
            "Inverted or coloured pixels.",
            "ExpectColumnValuesToBeInSet",
            {"column": "acq_photometric", "value_set": PHOTOMETRIC},
        ),
        _between("acq_rows", section, "warning", 16, 65_535, ""),
        _between("acq_columns", section, "warning", 16, 65_535, ""),
        _between("acq_bits", section, "warning", 8, 32, ""),
    ]
    for column, (low, high) in PLAUSIBLE.get(modality, {}).items():
        critical = column == "acq_pixel_mm" and spec.input.spacing_mm is not None
        if critical:
            out.append(_not_null(column, section, "critical", "Samples are resampled to a grid in millimetres; without a spacing they cannot be."))
        out.append(_between(column, section, "critical" if critical else "warning", low, high, f" for {modality}"))
    return out


def _devices(spec: DiseaseSpec) -> list[Check]:
    section = "Devices"
    out = [
        Check("devices_known", section, "warning", "Every sample names its device", "What names no device cannot be judged by device."),
        Check(
            "makers_known",
            section,
            "warning",
            "Every maker is in the vocabulary",
            "An unknown maker is a new kind of device, or a header that somebody typed.",
        ),
        Check(
            "devices_large",
            section,
            "warning",
            f"Every device has at least {spec.device.min_n} samples",
            "Fewer are too few to judge a device on its own.",
        ),
        Check(
            "device_splits",
            section,
            "warning",
            "Every device stands in every split",
            "A device met only in test is unseen to the model; one met only in training is never judged.",
        ),
    ]
    if spec.target.kind in ("multilabel", "dense"):
        return out
    return [
        *out,
        Check(
            "device_classes", section, "warning", "Every device brings every class", "No discrimination can be measured on a device with one class."
        ),
        Check("class_devices", section, "warning", "No class comes from one device only", "The model may learn the device in place of the disease."),
        Check(
            "device_association",
            section,
            "warning",
            "The device does not give the label away",
            "The model may learn the device in place of the disease.",
        ),
    ]


def _pixels(spec: DiseaseSpec) -> list[Check]:
    section = "Pixels"
    out = [
        Check("bytes_match", section, "critical", "The shards hold the bytes that the manifest describes", "A damaged or edited file."),
        Check(
            "values_in_range",
            section,
            "critical",
            "Values are finite and lie in the range of the spec",
            "Other units, or an image that was windowed before.",
        ),
    ]
    if spec.input.layout == "table":  # a row of equal values, or of one, is no failed decoder
        return out
    return [
        *out,
        Check("mostly_not_blank", section, "critical", "Blank samples are rare", "A decoder or a mask that failed for a whole source."),
        Check("not_blank", section, "warning", "No sample is blank", "A blank image teaches nothing."),
    ]


def _not_null(column: str, section: str, severity: Severity, why: str) -> Check:
    return Check(f"has_{column}", section, severity, f"Every sample has {column}", why, "ExpectColumnValuesToNotBeNull", {"column": column})


def _between(column: str, section: str, severity: Severity, low: float, high: float, suffix: str) -> Check:
    why = "Outside, units or tags were mixed up."
    says = f"{column} lies between {low:g} and {high:g}{suffix}"
    return Check(
        f"range_{column}", section, severity, says, why, "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high}
    )
