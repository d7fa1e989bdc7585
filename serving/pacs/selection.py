"""Which series, or images, of a study a model is asked about. Each rule is a function that gives a reason, or None; on doubt there is no answer.

A reason names a rule and numbers, never a value out of a header: it is kept in the ledger and printed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from components.core.pacs_rules import PacsRules
from serving.pacs.facts import ImageFacts, Vector

ALIKE = 0.999  # cosine between planes of one series
ALONG = {"sagittal": 0, "coronal": 1, "axial": 2}
NEARLY = 0.9  # cosine between a series' normal and the body's axis
GAP, SAME_MM = 1.5, 1e-3
EQUAL_MM = 0.1  # series whose slices differ less in distance are equally fine
Images = Sequence[ImageFacts]


@dataclass(frozen=True)
class Choice:
    """Images that one answer is about: a series' in the order that the archive gave, or one image of each side."""

    images: tuple[ImageFacts, ...]


@dataclass(frozen=True)
class Declined:
    """No answer. `concerned` is False where the study holds nothing of the model's modalities."""

    reasons: tuple[str, ...]
    concerned: bool = True


def choose(series: Mapping[str, Images], rules: PacsRules) -> Choice | Declined:
    """The images of a study that the rules select.

    Args:
        series: Series UID -> its images; series of other modalities may be left out.
    """
    concerned = [list(images) for images in series.values() if any(i.modality in rules.modalities for i in images)]
    if not concerned:
        return Declined(("no series of the modality",), concerned=False)
    return _image_of_each_side(concerned, rules) if rules.unit == "image" else _series(concerned, rules)


def _series(candidates: Sequence[Images], rules: PacsRules) -> Choice | Declined:
    refused: Counter[str] = Counter()
    left: list[tuple[float, Images]] = []
    for images in candidates:
        usable = [i for i in images if image_reason(i, rules) is None]
        if not usable:
            refused[next(reason for i in images if (reason := image_reason(i, rules)))] += 1
        elif reason := series_reason(images, usable, rules):
            refused[reason] += 1
        else:
            left.append((slice_mm(usable) or 0.0, usable))
    if not left:
        return Declined(tuple(f"{reason} ({n} series)" for reason, n in sorted(refused.items())))
    left.sort(key=lambda pair: pair[0])
    finest = [images for mm, images in left if mm - left[0][0] < EQUAL_MM]
    if len(finest) > 1:
        return Declined((f"{len(finest)} series fit equally well",))
    return Choice(tuple(finest[0]))


def _image_of_each_side(candidates: Sequence[Images], rules: PacsRules) -> Choice | Declined:
    refused: Counter[str] = Counter()
    sides: dict[str, list[ImageFacts]] = defaultdict(list)
    for image in (i for images in candidates for i in images):
        if reason := image_reason(image, rules):
            refused[reason] += 1
        else:
            sides[image.side].append(image)
    if not sides:
        return Declined(tuple(f"{reason} ({n} images)" for reason, n in sorted(refused.items())))
    if "" in sides and len(sides) > 1:
        return Declined((f"{len(sides[''])} images name no side, others do",))
    for side, images in sorted(sides.items()):
        if len(images) > 1:
            return Declined((f"{len(images)} images of {'one side' if side else 'no named side'} fit equally well",))
    return Choice(tuple(images[0] for _, images in sorted(sides.items())))


def image_reason(image: ImageFacts, rules: PacsRules) -> str | None:
    """The first rule that an image breaks."""
    return next((reason for rule in IMAGE_RULES if (reason := rule(image, rules))), None)


def series_reason(images: Images, usable: Images, rules: PacsRules) -> str | None:
    """The first rule that a series breaks. `usable`: those of its images that break none of their own."""
    if others := len(images) - sum(_excluded(i, rules) is not None for i in images) - len(usable):
        return f"{others} of its images break rules that the others keep"
    return next((reason for rule in SERIES_RULES if (reason := rule(usable, rules))), None)


def _modality(image: ImageFacts, rules: PacsRules) -> str | None:
    return None if image.modality in rules.modalities else "another modality"


def _sop_class(image: ImageFacts, rules: PacsRules) -> str | None:
    return None if image.sop_class in rules.sop_classes else "another kind of object"


def _excluded(image: ImageFacts, rules: PacsRules) -> str | None:
    words = [word for word in rules.excluded if word in image.image_type]
    return f"image type {words[0]}" if words else None


def _body_part(image: ImageFacts, rules: PacsRules) -> str | None:
    fits = not rules.body_parts or not image.body_part or image.body_part in rules.body_parts
    return None if fits else "another body part"


def _burned_in(image: ImageFacts, _: PacsRules) -> str | None:
    return "burned-in annotation" if image.burned_in else None


def _contrast(image: ImageFacts, rules: PacsRules) -> str | None:
    if rules.contrast == "any" or image.contrast == (rules.contrast == "with"):
        return None
    return f"{'no ' if rules.contrast == 'with' else ''}contrast agent"


def _sequence(image: ImageFacts, rules: PacsRules) -> str | None:
    fits = not rules.sequence or any(word.lower() in image.described for word in rules.sequence)
    return None if fits else "another sequence, or none named"


def _not_sequence(image: ImageFacts, rules: PacsRules) -> str | None:
    named = [word for word in rules.not_sequence if word.lower() in image.described]
    return f"its description says {named[0]}" if named else None


def _acquisition(image: ImageFacts, rules: PacsRules) -> str | None:
    return None if rules.acquisition in ("any", image.acquisition) else f"not acquired in {rules.acquisition}, or not said"


def _echo(image: ImageFacts, rules: PacsRules) -> str | None:
    if rules.echo_ms is None:
        return None
    least, most = rules.echo_ms
    if image.echo_ms is None:
        return "no echo time"
    return None if least <= image.echo_ms <= most else f"echo time {image.echo_ms:.1f} ms, allowed {least:g} to {most:g} ms"


def _frames(image: ImageFacts, _: PacsRules) -> str | None:
    return None if image.frames == 1 else "several frames in one object"


IMAGE_RULES: tuple[Callable[[ImageFacts, PacsRules], str | None], ...] = (
    _modality, _sop_class, _excluded, _body_part, _burned_in, _contrast, _sequence, _not_sequence, _acquisition, _echo, _frames,
)  # fmt: skip


def _number(images: Images, rules: PacsRules) -> str | None:
    least, most = rules.images
    return None if least <= len(images) <= most else f"{len(images)} images, allowed {least} to {most}"


def _one_plane(images: Images, rules: PacsRules) -> str | None:
    if rules.slice_mm is None and rules.orientation == "any":
        return None
    normals = [normal(i) for i in images]
    if any(n is None or i.position is None for n, i in zip(normals, images, strict=True)):
        return "images without position or orientation"
    if any(_dot(n, normals[0]) < ALIKE for n in normals):  # type: ignore[arg-type]
        return "mixed orientations"
    axis = ALONG.get(rules.orientation)
    if axis is not None and abs(normals[0][axis]) < NEARLY:  # type: ignore[index]
        return f"not {rules.orientation}"
    return None


def _one_size(images: Images, rules: PacsRules) -> str | None:
    if rules.slice_mm is None:
        return None
    return None if len({(i.rows, i.columns, i.pixel_mm) for i in images}) == 1 else "mixed sizes or pixel spacings"


def _no_gap(images: Images, rules: PacsRules) -> str | None:
    if rules.slice_mm is None or len(images) < 2:
        return None
    steps, usual = _steps(images), slice_mm(images) or 0.0
    if min(steps) < SAME_MM:
        return "several images at one position"
    missing = sum(round(step / usual) - 1 for step in steps if step > GAP * usual)
    return f"{missing} slices missing" if missing else None


def _fine(images: Images, rules: PacsRules) -> str | None:
    if rules.slice_mm is None:
        return None
    step, (least, most) = slice_mm(images), rules.slice_mm
    if step is None:
        return "no distance of slices"
    return None if least - SAME_MM <= step <= most + SAME_MM else f"slices {step:.2f} mm apart, allowed {least:g} to {most:g} mm"


SERIES_RULES: tuple[Callable[[Images, PacsRules], str | None], ...] = (_number, _one_plane, _one_size, _no_gap, _fine)


def normal(image: ImageFacts) -> Vector | None:
    """Unit vector through the plane, or None."""
    if image.orientation is None:
        return None
    a, b = image.orientation[:3], image.orientation[3:]
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    length = math.hypot(*cross)
    return tuple(v / length for v in cross) if length > 0.9 else None


def slice_mm(images: Images) -> float | None:
    """Median distance of neighbouring slices."""
    steps = _steps(images)
    return median(steps) if steps else None


def _steps(images: Images) -> list[float]:
    along = normal(images[0])
    if along is None or any(i.position is None for i in images):
        return []
    return [b - a for a, b in pairwise(sorted(_dot(i.position or along, along) for i in images))]


def _dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
