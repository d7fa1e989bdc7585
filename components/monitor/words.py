"""Findings in words that somebody at the machine can act on: what, by how much, instead of what.

A figure is told only where it was seen: a place beyond the reference is "above" its end, or what the window's own largest value says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from components.core import embedding
from components.core.acquisition import PARAMETERS
from components.core.figure_words import RATIOS, Words
from components.monitor.causes import Cause
from components.monitor.detect import UNHEARD, Change, Moved
from components.monitor.header import AS_DECLARED, PREFIX
from components.monitor.watched import ABSTAIN, OF_SLIDE

LOOKS = "the images look different to the network"
LOOKS_ONLY = "the images look different to the network, and no measured property explains it"
LOOKS_SIGNAL, LOOKS_SIGNAL_ONLY = (text.replace("images look", "recordings look") for text in (LOOKS, LOOKS_ONLY))
NEARLY = 0.95
"""Share of the answers from which on they are all told to be so."""


def plain(name: str, of: Words) -> str:
    """A feature as a reader calls it."""
    if name == ABSTAIN:
        return "answers without a decision"
    if name.startswith(embedding.PREFIX):
        return f"what the network sees, direction {name.removeprefix(embedding.PREFIX)}"
    if name.startswith(OF_SLIDE):
        return f"{plain(name.removeprefix(OF_SLIDE), of)} in whole slides"
    if name.startswith("score_"):
        return f"probability of {name.removeprefix('score_')}"
    if name.startswith(PREFIX):
        return f"{_declared(name, of)} seen in the pixels"
    return of.name(name)


def say(change: Change, of: Words, usual: str | None = None, new: str | None = None) -> str:
    """One change.

    Args:
        usual: The commonest value of the feature in the reference, where its values are names.
        new: The value that came last of those that the reference does not have.
    """
    name = plain(change.feature, of)
    if change.aspect == "missing":
        return f"{name} {'missing' if change.effect > 0 else 'given'} in {_share(change.after)} (before {_share(change.before)})"
    if change.aspect == "category":
        return _category(change, of, usual, new)
    if change.moved:
        return _values(name, change, of)
    return _number(name, change, of)


def _category(change: Change, of: Words, usual: str | None, new: str | None) -> str:
    name, shares = plain(change.feature, of), f"in {_share(change.after)} (before {_share(change.before)})"
    if change.feature.startswith(PREFIX):
        tag, value = _declared(change.feature, of), (change.value or "").removeprefix("like ")
        if change.value == AS_DECLARED:
            return f"{tag}: pixels as declared {shares}"
        return f"{tag}: pixels look like {value} {shares}, the tags say otherwise"
    if change.feature == ABSTAIN:
        return f"{name} {_share(change.after if change.value == 'yes' else 1 - (change.after or 0))} (before " + (
            f"{_share(change.before if change.value == 'yes' else 1 - (change.before or 0))})"
        )
    instead = f" instead of {of.value(change.feature, usual)}" if usual is not None and usual != change.value else ""
    value = new if change.value == UNHEARD and new else change.value or ""
    return f"{name} {of.value(change.feature, value)}{instead} {shares}"


def _values(name: str, change: Change, of: Words) -> str:
    """A number with a few values, e.g. a tube voltage: which of them came instead of which."""
    old = [m for m in change.moved if m.before > 0]
    new = [m for m in change.moved if m.before == 0 and m.after > 0]
    known = " or ".join(of.value(change.feature, m.low, unit=False) for m in sorted(old, key=lambda m: -m.before)[:3])
    known += " or another" if len(old) > 3 else ""
    known = f"{known} {of.unit_of(change.feature)}".strip()
    if sum(m.after for m in new) >= NEARLY:
        span = Moved(min(m.low for m in new), max(m.high for m in new), 0.0, 1.0) if len(new) > 1 else new[0]
        return f"{name} {_span(change, span, of)} instead of {known}"
    rising = max(change.moved, key=lambda m: m.after - m.before)
    return f"{name} {_span(change, rising, of)} in {_share(rising.after)} (before {_share(rising.before)})"


def _span(change: Change, span: Moved, of: Words) -> str:
    """Where values lie: one value, between two, or beyond the reference; as far as the window's own ends tell."""
    low, high = span.low, span.high
    if change.ends is not None:
        low, high = max(low, change.ends[0]), min(high, change.ends[1])
    if low == high:
        return of.value(change.feature, low)
    if math.isinf(low):
        return f"below {of.value(change.feature, high)}"
    if math.isinf(high):
        return f"above {of.value(change.feature, low)}"
    first, last = of.value(change.feature, low, unit=False), of.value(change.feature, high)
    return last if first == of.value(change.feature, high, unit=False) else f"{first} to {last}"


def _number(name: str, change: Change, of: Words) -> str:
    """A number with many values: its middle before and now."""
    if change.aspect == "scale":
        return f"{name} {'more' if change.effect > 0 else 'less'} spread"
    before, after = change.before, change.after
    if before is None or after is None or (after - before) * change.effect <= 0:
        return f"{name} distributed differently"  # the middle stayed, or went another way than the rest
    sign = "higher" if after > before else "lower"
    beyond = change.middle is not None and any(math.isinf(end) for end in change.middle)
    if change.feature in RATIOS and before > 0 and of.layout != "table":
        return f"{name} {100 * (after / before - 1):+.0f} %" + (" or more" if beyond and after > before else " or lower" if beyond else "")
    was, now = of.value(change.feature, before), of.value(change.feature, after)
    if beyond:
        end = "above" if after > before else "below"
        return f"{name} {sign}: {end} {now} instead of {was}" if now != was else f"{name} {sign} than {was}"
    if now == was:
        return f"{name} {sign} than {was}"
    return f"{name} {sign}: {now} instead of {was}"


def mixed(who: str, before: float, after: float) -> str:
    """A stratum of patients whose share changed."""
    return f"{who} in {_share(after)} (before {_share(before)})"


def why(causes: Sequence[Cause], of: Words) -> str:
    """The likeliest cause, or nothing where no known one explains the pattern."""
    return f"as after {of.cause(causes[0].name, causes[0].strength)}" if causes else ""


def several(sentences: Sequence[str], most: int = 3) -> str:
    """The first ones, and how many more there are; all of them stand in the alarm's list and on the window's page."""
    more = len(sentences) - most
    return "; ".join(sentences[:most]) + (f"; and {more} more" if more > 0 else "")


def _declared(feature: str, of: Words) -> str:
    tag = feature.removeprefix(PREFIX)
    return of.name(f"acq_{tag}" if f"acq_{tag}" in PARAMETERS else tag)


def _share(value: float | None) -> str:
    """Per cent; one that is there is never told as none, and one that is not whole never as all."""
    if value is None:
        return "-"
    if 0 < value < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= value < 1 else f"{100 * value:.0f} %"
