"""The answer drawn: outlines as a DICOM segmentation, one segment for each finding; or the image itself with the answer beside it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import wording
from components.core.imaging import laterality
from components.core.package import ModelPackage
from components.core.pacs_rules import PacsRules
from serving.pacs.answer import Item, StudyAnswer
from serving.pacs.codes import ASSISTS, DEEP_LEARNING, MORPHOLOGY, SYNTHETIC, coded
from serving.pacs.identity import Identity
from serving.said import device, renamed, said

MAKER, PRODUCT = "dxflow", "dxflow pacs"
SERIES_NUMBER = {"segmentation": 9701, "picture": 9702, "report": 9700}
"""Far above what scanners count, so that results stand at the end of a study."""


def segmentation(answer: StudyAnswer, package: ModelPackage, rules: PacsRules, identity: Identity, made: datetime) -> Any | None:
    """The outlines of all findings; None where there are none.

    Only slices with an outline become frames. A finding's segment has its number in the report.
    """
    import highdicom as hd

    places = [item.place for item in answer.items if item.place is not None]
    if not places:
        return None
    touched = sorted({k for item in answer.items for k in item.images})
    row = {k: n for n, k in enumerate(touched)}
    image = answer.sources[0]
    labels = np.zeros((len(touched), image.Rows, image.Columns), dtype=np.uint8 if len(places) < 256 else np.uint16)
    for number, place in reversed(list(enumerate(places, 1))):  # where two overlap, the more certain one is seen
        k, i, j = place.corner
        for depth, plane in enumerate(place.mask):
            box = labels[row[k + depth], i : i + plane.shape[0], j : j + plane.shape[1]]
            box[plane] = number
    tool, version, made_from = answer.tools[0]
    algorithm = hd.AlgorithmIdentificationSequence(name=tool, version=version, family=coded(DEEP_LEARNING), source=made_from[:64])
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=n, segment_label=f"{rules.finding[2]} {n}", segmented_property_category=coded(MORPHOLOGY),
            segmented_property_type=coded(rules.finding), algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm, tracking_uid=identity.uid("finding", str(n)), tracking_id=f"{rules.finding[2]} {n}",
            anatomic_regions=[coded(rules.site)], display_color=_colour(n),
        )
        for n in range(1, len(places) + 1)
    ]  # fmt: skip
    found = hd.seg.Segmentation(
        source_images=[answer.sources[k] for k in touched], pixel_array=labels, segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions, series_instance_uid=identity.series("segmentation"), series_number=SERIES_NUMBER["segmentation"],
        sop_instance_uid=identity.uid("segmentation"), instance_number=1, manufacturer=MAKER, manufacturer_model_name=PRODUCT,
        software_versions=f"{package.name} {package.version}"[:64], device_serial_number=package.digest[:16], content_label="FINDINGS",
        content_description=("SYNTHETIC " if answer.synthetic else "") + "outlines by a program",
    )  # fmt: skip
    found.SeriesDescription = ("SYNTHETIC " if answer.synthetic else "") + "dxflow outlines"
    return stamped(found, made)


def _colour(number: int) -> Any:
    """Colours that differ from one number to the next."""
    import highdicom as hd

    angle = number * 2.4
    return hd.color.CIELabColor(l_star=70.0, a_star=60.0 * float(np.cos(angle)), b_star=60.0 * float(np.sin(angle)))


def pictures(answer: StudyAnswer, package: ModelPackage, rules: PacsRules, identity: Identity, made: datetime) -> list[Any]:
    """For each judged image a secondary capture: the image, where it mattered to the model, and the answer in words below."""
    import highdicom as hd

    out = []
    for number, (item, image) in enumerate(zip(answer.items, answer.pictures, strict=True), 1):
        origin = answer.sources[item.images[0]]
        organ = laterality.organ(origin, laterality.KINDS.get(package.spec.input.modality, ""))
        found = hd.sc.SCImage.from_ref_dataset(
            origin, pixel_array=drawn(image, item, package, rules, synthetic=answer.synthetic, side=organ), bits_allocated=8,
            photometric_interpretation=hd.PhotometricInterpretationValues.RGB, coordinate_system=hd.CoordinateSystemNames.PATIENT,
            series_instance_uid=identity.series("picture"), series_number=SERIES_NUMBER["picture"],
            sop_instance_uid=identity.uid("picture", str(number)), instance_number=number, manufacturer=MAKER, patient_orientation=("L", "F"),
            laterality=side if (side := laterality.side(origin)) in ("L", "R") else None,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )  # fmt: skip
        found.SeriesDescription = ("SYNTHETIC " if answer.synthetic else "") + "dxflow overlay"
        found.ImageType = ["DERIVED", "SECONDARY"]
        setattr(found, "PatientOrientation", oriented(origin))  # noqa: B010 - which way a photograph lies only its camera knows
        found.BurnedInAnnotation = "NO"  # the text below the image names no patient and no date
        found.ManufacturerModelName, found.SoftwareVersions = PRODUCT, f"{package.name} {package.version}"[:64]
        out.append(stamped(found, made))
    return out


def oriented(origin: Any) -> list[str] | None:
    """Patient Orientation of an image that is drawn as it is: what its header says; None, which is allowed, where it does not."""
    values = origin.get("PatientOrientation") or ()
    told = [] if isinstance(values, str) else [str(value).strip().upper() for value in values]  # one value alone is no orientation
    return told if len(told) == 2 and all(value and set(value) <= laterality.OPPOSITE.keys() for value in told) else None


def drawn(image: NDArray[np.uint8], item: Item, package: ModelPackage, rules: PacsRules, *, synthetic: bool, side: str = "") -> NDArray[np.uint8]:
    """(rows + text, columns, 3): the image, its heat as contour in yellow, and lines of text under it."""
    from PIL import Image, ImageDraw, ImageFont

    least = 480  # narrower images are enlarged, so that the text fits and can be read
    factor = max(1, -(-least // image.shape[1]))
    picture = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    if item.heat is not None:
        picture = _contoured(picture, item.heat)
    height, width = picture.shape[:2]
    size = max(14, width // 36)
    font = ImageFont.load_default(size)
    canvas = ImageDraw.Draw(Image.new("RGB", (width, 1)))
    lines = [
        line
        for text in sentences(item, package, rules, synthetic=synthetic, heat=item.heat is not None, side=side)
        for line in _wrapped(canvas, text, font, width - size)
    ]
    step = size + size // 2
    page = Image.new("RGB", (width, height + step * len(lines) + size), (0, 0, 0))
    page.paste(Image.fromarray(picture), (0, 0))
    pen = ImageDraw.Draw(page)
    for n, line in enumerate(lines):
        pen.text((size // 2, height + size // 2 + n * step), line, fill=(255, 220, 90) if n == 0 else (230, 230, 230), font=font)
    return np.asarray(page)


def sentences(item: Item, package: ModelPackage, rules: PacsRules, *, synthetic: bool, heat: bool, side: str = "") -> list[str]:
    """What stands under the image; the answer first.

    Args:
        side: Which eye or side it is, as the image says; "" where it does not.
    """
    answered = item.answer
    head = f"{wording.sentence(side)} " if side else ""
    if answered["abstain"]:
        lines = [f"{head}No decision: {'; '.join(answered['reasons'])}."]
    else:
        told = said(renamed(answered, {name: code[2] for name, code in rules.decisions.items()}))
        lines = [f"{head}{rules.decisions[answered['decision']][2]}.", " ".join(told.lines)]
    lines += [device(answered), f"{package.name} version {package.version}, {package.digest[:12]}"]
    lines += [f"Yellow: what speaks most for {rules.finding[2].lower()} ({item.method})."] * heat
    return [*lines, ASSISTS, *([SYNTHETIC] * synthetic)]


def _contoured(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A line around the tenth of the image that mattered most."""
    from PIL import Image
    from scipy.ndimage import binary_dilation

    if not np.ptp(heat) > 0:
        return picture
    size = (picture.shape[1], picture.shape[0])
    fine = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC))
    inside = fine >= np.quantile(fine, 0.9)
    line = binary_dilation(inside, iterations=max(1, size[0] // 300)) & ~inside
    out = picture.copy()
    out[line] = (255, 220, 0)
    return out


def _wrapped(canvas: Any, text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and canvas.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def stamped(made_object: Any, made: datetime) -> Any:
    """The object with the answer's time instead of the clock's, so that making it again gives the same bytes.

    That it is synthetic stands in descriptions and texts, not in Synthetic Data (0008,001C): checkers of 2022 call that attribute an error.
    """
    day, moment = made.strftime("%Y%m%d"), made.strftime("%H%M%S.%f")
    for kind in ("Content", "InstanceCreation", "Series"):
        if kind != "Series" or "SeriesDate" in made_object:
            setattr(made_object, f"{kind}Date", day)
            setattr(made_object, f"{kind}Time", moment)
    return made_object
