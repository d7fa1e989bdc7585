"""What was found on a device, as sentences: its name, what changed, the likeliest cause, and which other patients it saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.core import embedding
from components.core.figure_words import Words
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor import answer_events, unknown_devices, words
from components.monitor.causes import Signatures
from components.monitor.detect import WATCH, Change, Judged
from components.monitor.watched import Watched

if TYPE_CHECKING:
    import pandas as pd

MOST_OF_A_VALUE = 40
"""Characters of a tag's value that are repeated to a reader."""
TOLD = 0.1
"""Share of answers that could not be compared, from which on it is told."""


class Teller:
    """Sentences about the devices of one model.

    Args:
        names: Device -> maker and model, as far as they are known. Kept by the caller between runs, as is `unheard`.
        unheard: Device -> tag -> its last value that the reference does not have.
    """

    def __init__(self, watched: Watched, names: dict[str, list[str | None]], unheard: dict[str, dict[str, str]]) -> None:
        self.watched, self.names, self.unheard = watched, names, unheard
        self.words = Words.of(watched.model.spec.input)
        simulated = watched.model.simulated
        self.signatures = None if simulated is None else Signatures(simulated.to_dict("list"))  # pyright: ignore[reportArgumentType]
        for key, rows in watched.model.reference.groupby("device_key"):
            first = rows.iloc[0]
            self.names.setdefault(str(key), [_text(first.get("manufacturer")), _text(first.get("model"))])

    def label(self, device: str) -> str:
        """What a reader sees."""
        if device == unknown_devices.OTHERS:
            return unknown_devices.LABEL
        if device == UNKNOWN_DEVICE:
            return "device not told"
        named = " ".join(part for part in self.names.get(device, [None, None]) if part)
        return f"{named or 'device without a name'} ({device[:8]})"

    def remember(self, device: str, events: pd.DataFrame) -> None:
        """Take names and new tags from a device's events (`answer_events.py`)."""
        names = self.names.setdefault(device, [None, None])
        for n, column in enumerate(("maker", "model")):
            known = events[column].dropna()
            if names[n] is None and len(known):
                names[n] = str(known.iloc[0])
        places = self.watched.reference.baseline(device)[0].places
        for name, known in places.categories.items():
            if self.watched.groups[name] == "acquisition":
                told = events[["second", answer_events.FEATURE + name]].dropna()
                other = [(at, value) for at, value in told.itertuples(index=False, name=None) if value not in known]
                if other:
                    self.unheard.setdefault(device, {})[name] = max(other)[1][:MOST_OF_A_VALUE]

    def changes(self, device: str, result: Judged) -> str:
        """The first things that changed, how many more, and as after what; "" where nothing did."""
        said, cause = words.several(self.sentences(device, result)), self.cause(device, result)
        return f"{said}, {cause}" if cause else said

    def sentences(self, device: str, result: Judged) -> list[str]:
        """Everything that changed, one sentence a feature."""
        places = self.watched.reference.baseline(device)[0].places
        return _distinct(result.alarm or result.watch, self.words, places.categories, self.unheard.get(device, {}))

    def cause(self, device: str, result: Judged) -> str:
        """As after what, where a known change explains the images; "" where none does, or where the figures that it moves most did not change."""
        changed = {c.feature for c in result.compared if c.matters and c.p <= WATCH}
        if not self.signatures or not (result.alarm or result.watch):
            return ""
        named = self.signatures.name(result.shifts, self.watched.reference.baseline(device)[0], result.patients)
        return words.why([cause for cause in named[:1] if 2 * len(cause.moves & changed) >= len(cause.moves)], self.words)

    def all(self, device: str, result: Judged) -> str:
        """`changes`, what could not be compared beside them, and what is known of the patients."""
        said = self.changes(device, result)
        return "; ".join(part for part in (said, result.unjudged if said else "", patients_of(result)) if part)


def patients_of(result: Judged) -> str:
    """How the case mix changed, and how many answers could not be compared for it; "" where there is nothing to say."""
    said = []
    if result.mix:
        mirrored = len(result.mix) == 2 and abs(sum(m.after - m.before for m in result.mix)) < 0.005
        told = [m for m in result.mix if m.after > m.before] if mirrored else result.mix
        allowed = "" if result.reason else ", which is allowed for"
        said.append(f"the case mix changed: {words.several([words.mixed(m.stratum, m.before, m.after) for m in told], 2)}{allowed}")
    if result.left_out >= TOLD:
        said.append(f"{100 * result.left_out:.0f} % of the answers are of patients that its reference does not have, and were not compared")
    return "; ".join(said)


def _distinct(changes: Iterable[Change], of: Words, categories: Mapping[str, Sequence[str]], unheard: Mapping[str, str]) -> list[str]:
    """One sentence for each feature, tags first: an operator can look them up at the machine."""
    once: dict[str, Change] = {}
    for change in changes:
        if not (change.aspect == "missing" and change.feature.startswith("header_")):  # the tag itself is missing or new, and is told
            once.setdefault(embedding.PREFIX if change.feature.startswith(embedding.PREFIX) else change.feature, change)
    seen = once.pop(embedding.PREFIX, None)
    ordered = sorted(once.values(), key=lambda c: 0 if c.feature.startswith(("acq_", "software", "header_")) else 1)
    said = [words.say(c, of, categories[c.feature][0] if categories.get(c.feature) else None, unheard.get(c.feature)) for c in ordered]
    if seen is None:
        return said
    looks = (words.LOOKS_SIGNAL, words.LOOKS_SIGNAL_ONLY) if of.layout == "window" else (words.LOOKS, words.LOOKS_ONLY)
    return [*said, looks[0]] if said else [looks[1]]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
