"""Findings in words that somebody at the machine can act on: what, by how much, instead of what."""

from __future__ import annotations

from collections.abc import Sequence

from components.core import embedding
from components.monitor.causes import Cause
from components.monitor.detect import UNHEARD, Change
from components.monitor.header import AS_DECLARED, PREFIX
from components.monitor.watched import ABSTAIN, OF_SLIDE

PLAIN = {
    "mean": "mean intensity", "sd": "contrast", "p01": "darkest 1 %", "p50": "median intensity", "p99": "brightest 1 %", "noise_sd": "noise",
    "sharpness": "sharpness", "skewness": "skewness of intensities", "clipped_low": "share of black", "clipped_high": "share of saturated values",
    "fineness": "share of fine detail", "blockiness": "compression blocks", "red_green": "red against green", "blue_green": "blue against green",
    "software": "software version", ABSTAIN: "answers without a decision",
    "acq_kvp": "tube voltage (kV)", "acq_exposure_mas": "exposure (mAs)", "acq_slice_thickness_mm": "slice thickness (mm)",
    "acq_pixel_mm": "pixel size (mm)", "acq_rate_hz": "sampling rate (Hz)", "acq_field_strength_t": "field strength (T)",
    "acq_microns_per_pixel": "pixel size (um)", "acq_bits": "bits of a pixel",
}  # fmt: skip
RATIOS = ("sd", "noise_sd", "sharpness")
"""Figures with a zero that means nothing is there: their changes are told in per cent."""
LOOKS = "the images look different to the network"
LOOKS_ONLY = "the images look different to the network, and no measured property explains it"
CAUSES = {
    "gain": ("a higher gain", "a lower gain"), "offset": ("a brighter offset", "a darker offset"), "noise": ("more noise", "less noise"),
    "blur": ("a softer reconstruction or a lens out of focus", "less blur"), "sharpening": ("a sharper kernel or filter", "less sharpening"),
    "gamma": ("another tone curve (darker)", "another tone curve (brighter)"), "saturation": ("a detector that is full earlier", "less saturation"),
    "compression": ("lossy compression", "less compression"), "stain": ("another stain or lamp", "another stain or lamp"),
}  # fmt: skip


def plain(name: str) -> str:
    """A feature as a reader calls it."""
    if name in PLAIN:
        return PLAIN[name]
    if name.startswith(embedding.PREFIX):
        return f"what the network sees, direction {name.removeprefix(embedding.PREFIX)}"
    if name.startswith(OF_SLIDE):
        return f"{plain(name.removeprefix(OF_SLIDE))} in whole slides"
    if name.startswith("score_"):
        return f"probability of {name.removeprefix('score_')}"
    if name.startswith(PREFIX):
        return f"{name.removeprefix(PREFIX).replace('_', ' ')} seen in the pixels"
    return name.removeprefix("acq_").replace("_", " ")


def say(change: Change, usual: str | None = None, new: str | None = None) -> str:
    """One change.

    Args:
        usual: The commonest value of the feature in the reference, where its values are names.
        new: The value that came last of those that the reference does not have.
    """
    name = plain(change.feature)
    if change.aspect == "missing":
        return f"{name} {'missing' if change.effect > 0 else 'given'} in {_share(change.after)} (before {_share(change.before)})"
    if change.aspect == "category":
        shares = f"in {_share(change.after)} (before {_share(change.before)})"
        if change.feature.startswith(PREFIX):
            tag = change.feature.removeprefix(PREFIX).replace("_", " ")
            value = (change.value or "").removeprefix("like ")
            return (
                f"{tag}: pixels as declared {shares}"
                if change.value == AS_DECLARED
                else f"{tag}: pixels look like {value} {shares}, the tags say otherwise"
            )
        if change.feature == ABSTAIN:
            return f"{name} {_share(change.after if change.value == 'yes' else 1 - (change.after or 0))} (before " + (
                f"{_share(change.before if change.value == 'yes' else 1 - (change.before or 0))})"
            )
        instead = f" instead of {usual}" if usual is not None and usual != change.value else ""
        return f"{name} {new if change.value == UNHEARD and new else change.value}{instead} {shares}"
    if change.aspect == "scale":
        return f"{name} {'more' if change.effect > 0 else 'less'} spread"
    if change.aspect == "any" and change.before == change.after:
        return f"{name} distributed differently"
    if change.feature in RATIOS and change.before and change.before > 0 and change.after is not None:
        return f"{name} {100 * (change.after / change.before - 1):+.0f} %"
    sign = "higher" if (change.after or 0) > (change.before or 0) else "lower"
    after, before = _number(change.after), _number(change.before)
    # Beyond all that the reference holds, the counts only say that it is beyond.
    return f"{name} {sign} than {before}" if after == before else f"{name} {sign}: {after} instead of {before}"


def mixed(who: str, before: float, after: float) -> str:
    """A stratum of patients whose share changed."""
    return f"{who} in {_share(after)} (before {_share(before)})"


def why(causes: Sequence[Cause]) -> str:
    """The likeliest cause, or nothing where no known one explains the pattern."""
    if not causes:
        return ""
    return f"as after {CAUSES[causes[0].name][causes[0].strength < 0]}"


def several(sentences: Sequence[str], most: int = 3) -> str:
    """The first ones, and how many more there are."""
    more = len(sentences) - most
    return "; ".join(sentences[:most]) + (f"; and {more} more" if more > 0 else "")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
