"""The answer as a structured report: TID 1500, every finding with its measurements, its probability, and the decision or why there is none.

Source:
    DICOM PS3.16 TID 1500 (measurement report), TID 1411 (volumetric group), TID 1501 (group).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from components.core import wording
from components.core.imaging import laterality
from components.core.package import ModelPackage
from components.core.pacs_rules import PacsRules
from serving.pacs.answer import Item, Place, StudyAnswer
from serving.pacs.codes import (
    ASSISTS,
    COMMENT,
    CONCLUSION,
    COUNT,
    DECISION,
    DEEP_LEARNING,
    DETECTION,
    EVALUATIONS,
    SYNTHETIC,
    UNDECIDED,
    coded,
    own_scheme,
)
from serving.pacs.identity import Identity
from serving.pacs.overlay import MAKER, PRODUCT, SERIES_NUMBER, stamped
from serving.said import device, renamed, said

WHOLE = {"volume": "Series"}
"""What an item without a place is called, where it is not an image."""


def report(
    answer: StudyAnswer, package: ModelPackage, rules: PacsRules, identity: Identity, made: datetime, *, outlines: Any | None = None,
    others: tuple[Any, ...] = (), previous: Any | None = None,
) -> Any:  # fmt: skip
    """The report of one study, as pydicom data set.

    Args:
        outlines: The segmentation that the findings refer to.
        others: More objects of this answer, listed as evidence.
        previous: An earlier report that this one takes the place of.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=identity.uid("observer"), name=PRODUCT, manufacturer_name=MAKER, model_name=package.name, serial_number=package.digest
        ),
    )
    algorithm = _algorithm(package)
    groups = [_overview(answer, rules, identity, algorithm)] if answer.about == "series" else []
    groups += [_group(item, n, answer, package, rules, identity, outlines) for n, item in enumerate(answer.items, 1)]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer), procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups, title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=hd.sr.LanguageOfContentItemAndDescendants(hd.sr.CodedConcept("en", "RFC5646", "English")),
    )  # fmt: skip
    content[0].ContentSequence.append(_words(answer, package, rules))
    found = hd.sr.ComprehensiveSR(
        evidence=[*answer.sources, *([outlines] if outlines is not None else []), *others], content=content[0],
        series_instance_uid=identity.series("report"), series_number=SERIES_NUMBER["report"], sop_instance_uid=identity.uid("report"),
        instance_number=1, manufacturer=MAKER, is_complete=True, is_final=False, is_verified=False,
        previous_versions=[previous] if previous is not None else None,
    )  # fmt: skip
    found.SeriesDescription = ("SYNTHETIC " if answer.synthetic else "") + "dxflow report"
    found.ManufacturerModelName, found.SoftwareVersions = PRODUCT, f"{package.name} {package.version}"[:64]
    found.DeviceSerialNumber = package.digest[:16]
    found.CodingSchemeIdentificationSequence = [own_scheme()]
    return stamped(found, made)


def _algorithm(package: ModelPackage) -> Any:
    import highdicom as hd

    return hd.sr.AlgorithmIdentification(
        name=package.name, version=str(package.version), parameters=[f"package digest sha256:{package.digest}"], family=coded(DEEP_LEARNING),
        manufacturer=MAKER,
    )  # fmt: skip


def _overview(answer: StudyAnswer, rules: PacsRules, identity: Identity, algorithm: Any) -> Any:
    """How many there are: says that the series was looked at, also where nothing was found."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=identity.uid("finding", "all"), identifier="whole series"),
        finding_sites=[hd.sr.FindingSite(coded(rules.site))], algorithm_id=algorithm,
        measurements=[hd.sr.Measurement(name=coded(COUNT), value=len(answer.items), unit=codes.UCUM.NoUnits)],
    )  # fmt: skip


def _group(item: Item, number: int, answer: StudyAnswer, package: ModelPackage, rules: PacsRules, identity: Identity, outlines: Any | None) -> Any:
    """One finding, or one image."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    answered, model = item.answer, _algorithm(package)
    measured = []
    if item.place is not None:
        name, version, _ = answer.tools[0]
        detector = hd.sr.AlgorithmIdentification(name=name, version=version)
        measured += [
            hd.sr.Measurement(name=codes.SCT.Diameter, value=round(item.place.diameter_mm, 1), unit=codes.UCUM.Millimeter, algorithm_id=detector),
            hd.sr.Measurement(name=codes.SCT.Volume, value=round(item.place.volume_mm3, 1), unit=codes.UCUM.CubicMillimeter, algorithm_id=detector),
            hd.sr.Measurement(name=coded(DETECTION), value=wording.percent(item.place.detection), unit=codes.UCUM.Percent, algorithm_id=detector),
        ]
    if answered["probabilities"]:
        value = sum(answered["probabilities"][package.spec.target.classes[k]] for k in package.spec.positive_indices)
        measured.append(hd.sr.Measurement(name=coded(rules.probability), value=wording.percent(value), unit=codes.UCUM.Percent, algorithm_id=model))
    decision = coded(UNDECIDED if answered["abstain"] else rules.decisions[answered["decision"]])
    common: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=identity.uid("finding", str(number)), identifier=f"{rules.finding[2] if item.place else WHOLE.get(answer.about, 'Image')} {number}"
        ),
        "finding_type": coded(rules.finding) if item.place else None,  # an image as such is no finding: its decision may well be that there is none
        "finding_sites": [hd.sr.FindingSite(coded(rules.site))], "algorithm_id": model,
        "measurements": measured or None, "qualitative_evaluations": [hd.sr.QualitativeEvaluation(coded(DECISION), decision)],
    }  # fmt: skip
    if item.place is not None and outlines is not None:
        # not by `from_segmentation`: it fails where a segmentation has one segment only, whose number it keeps with what all frames share
        segment = hd.sr.ReferencedSegment(
            sop_class_uid=outlines.SOPClassUID, sop_instance_uid=outlines.SOPInstanceUID, segment_number=number,
            source_images=[hd.sr.SourceImageForSegmentation.from_source_image(answer.sources[k]) for k in item.images],
        )  # fmt: skip
        group: Any = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)
    else:
        images = [hd.sr.SourceImageForMeasurementGroup.from_source_image(answer.sources[k]) for k in item.images]
        group = hd.sr.MeasurementsAndQualitativeEvaluations(source_images=images, **common)
    group[0].ContentSequence.append(_text(COMMENT, sentence(item, number, answer, package, rules)))
    return group


def _text(name: tuple[str, str, str], value: str) -> Any:
    import highdicom as hd

    return hd.sr.TextContentItem(name=coded(name), value=value, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)


def sentence(item: Item, number: int, answer: StudyAnswer, package: ModelPackage, rules: PacsRules) -> str:
    """One finding in words: where it is, the answer with all that a reader should weigh it with, and the device."""
    answered, place = item.answer, item.place
    if place is None and answer.about == "volume":
        head = f"Series of {len(item.images)} images as a whole"
    elif place is None:
        side = laterality.organ(answer.sources[item.images[0]], laterality.KINDS.get(package.spec.input.modality, ""))
        head = f"Image {number}{f', {side}' if side else ''}"
    else:
        head = f"{rules.finding[2]} {number}: {place.diameter_mm:.1f} mm, {_where(place, answer)}"
    told = said(renamed(answered, {name: code[2] for name, code in rules.decisions.items()}))
    decided = f"No decision: {'; '.join(answered['reasons'])}." if answered["abstain"] else f"Decision: {rules.decisions[answered['decision']][2]}."
    return " ".join([f"{head}.", decided, *(() if answered["abstain"] else told.lines), device(answered)])


def _where(place: Place, answer: StudyAnswer) -> str:
    """The slice with most of it, as a reader counts and as the image calls itself, and the place in the frame; nothing about the body."""
    k = place.corner[0] + int(np.argmax(place.mask.sum(axis=(1, 2))))
    own = str(answer.sources[k].get("InstanceNumber") or "")
    parts = [f"slice {k + 1} of {len(answer.sources)}{f' (image number {own})' if own.isdecimal() else ''}"]
    if answer.sources[k].get("AnatomicalOrientationType") != "QUADRUPED":  # whose axes have other names
        parts.append(laterality.offset(place.position_mm))
    return "; ".join(part for part in parts if part)


def conclusion(answer: StudyAnswer, rules: PacsRules) -> str:
    """The report in one sentence."""
    decided = [rules.decisions[i.answer["decision"]][2] for i in answer.items if not i.answer["abstain"]]
    what = rules.finding[2].lower()
    counted = ", ".join(f"{decided.count(name)} {name}" for name in dict.fromkeys(decided))
    silent = len(answer.items) - len(decided)
    parts = [part for part in (counted, f"{silent} without a decision" if silent else "") if part]
    if answer.about == "series":
        head = f"{len(answer.items)} {what}{'' if len(answer.items) == 1 else 's'} found in {len(answer.sources)} images"
    elif answer.about == "volume":
        head = f"Series of {len(answer.sources)} images judged for {rules.finding[2]}"
    else:
        head = f"{len(answer.items)} image{'' if len(answer.items) == 1 else 's'} judged for {what}"
    return f"{head}: {', '.join(parts)}." if parts else f"{head}."


def _words(answer: StudyAnswer, package: ModelPackage, rules: PacsRules) -> Any:
    """What a reader of the report reads first: the conclusion, who made it, and what it is not."""
    import highdicom as hd

    lines = [_text(CONCLUSION, conclusion(answer, rules))]
    lines += [_text(COMMENT, SYNTHETIC)] * answer.synthetic
    made_by = f"Model {package.name} version {package.version}, package digest {package.digest}, operating point: {_operating_point(package)}."
    lines += [_text(COMMENT, ASSISTS), _text(COMMENT, made_by)]
    lines += [_text(COMMENT, f"{name.capitalize()}, version {version}, fitted on: {made_from}.") for name, version, made_from in answer.tools]
    box = hd.sr.ContainerContentItem(name=coded(EVALUATIONS), relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)
    box.ContentSequence = hd.sr.ContentSequence(lines)
    return box


def _operating_point(package: ModelPackage) -> str:
    facts = package.operating_point.to_dict()
    thresholds = ", ".join(f"{t:.3f}" for t in facts.get("thresholds") or [])
    return f"{facts['kind']} {thresholds} for {facts.get('positive')}" if thresholds else str(facts["kind"])
