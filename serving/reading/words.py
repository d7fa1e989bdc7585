"""An answer as a clinician reads it: what the model sees, how sure it is, on which device, and what nobody knows about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec

ASSISTS = "This assists and does not replace the physician. No decision about a patient may rest on it alone."
SYNTHETIC = "Trained on SYNTHETIC data: nothing that such a model says holds for a patient."


@dataclass(frozen=True)
class Said:
    """An answer in words.

    Args:
        headline: One sentence. answer: The same in a word or two, for a list.
        short: A few words for a list.
        lines: What a reader should weigh it with.
        tone: `positive`, `negative` or `none`.
    """

    headline: str
    answer: str
    short: str
    lines: tuple[str, ...]
    tone: str


def said(answer: Mapping[str, Any], package: ModelPackage) -> Said:
    """The answer in words."""
    target = package.spec.target
    positive = [target.classes[k] for k in package.spec.positive_indices]
    if answer["abstain"]:
        reasons = tuple(_sentence(r) for r in answer["reasons"])
        return Said("The model gives no answer for this one.", "No answer", reasons[0] if reasons else "", reasons, "none")
    p, sure = answer["probabilities"], answer.get("uncertainty") or {}
    decided = str(answer["decision"])
    lines: list[str] = []
    point, line = answer["operating_point"], ""
    if positive and target.kind != "multilabel":
        share = sum(p[name] for name in positive)
        what = target.positive if target.kind != "ordinal" else f"{target.positive} or more"
        told, line = _apart(share, point["thresholds"][0]) if point.get("kind") == "threshold" else (_percent(share), "")
        short = f"Probability of {what}: {told}."
        lines.append(short)
        if sure.get("low") is not None:
            ends = dict.fromkeys(_percent(sure[end]) for end in ("low", "high"))
            lines.append(f"Of test samples with this probability {' to '.join(ends)} were {what} (95 % interval).")
        tone = "positive" if set(decided.split("+")) & set(positive) else "negative"
    else:
        short = ", ".join(f"{name} {_percent(v)}" for name, v in sorted(p.items(), key=lambda kv: -kv[1])) + "."
        lines.append(short)
        tone = "positive" if decided != "none" else "negative"
    kept = sure.get("set")
    if kept is not None:
        others = [name for name in kept if name not in decided.split("+")]
        if others:
            lines.append(f"It cannot rule out {_or(others)} (with 90 % confidence).")
        elif not kept:
            lines.append("It is unlike any class that the model was tested on.")
        else:
            lines.append("It rules out the other classes (with 90 % confidence).")
    if line:
        lines.append(f"The line between the two answers lies at {line}.")
    lines += [_sentence(r) for r in answer["reasons"]]
    words = decided.replace("+", ", ")
    return Said(f"The model's answer: {words}.", f"{words[:1].upper()}{words[1:]}", short, tuple(lines), tone)


def part(answer: Mapping[str, Any], spec: DiseaseSpec) -> str:
    """Which part of its file the answer is about, as a sentence; "" where it is about all of it."""
    found = answer.get("part") or {}
    if "window" in found:
        start = float(found["start_s"])
        return f"Window {found['window'] + 1} of a recording: {start:.1f} to {start + (spec.input.window_s or 0):.1f}\u00a0s."
    if "tiles" in found:
        return f"All {found['tiles']} tiles with tissue were judged together. The picture is the whole slide, smaller."
    if "row" in found:
        return f"Row {found['row'] + 1} of a table."
    return ""


def device(answer: Mapping[str, Any]) -> str:
    """One sentence about the device."""
    d = answer["device"]
    name = " ".join(str(d[k]) for k in ("manufacturer", "model") if d.get(k)) or "Device without a name"
    state = {"known": "the model was tested on it", "unseen": "the model was never tested on it", "stale": "its profile is out of date"}
    return f"{name}: {state.get(d['status'], d['status'])}."


def limits(package: ModelPackage) -> list[str]:
    """What the model card says nobody should forget."""
    part = re.search(r"^## Limits\n(.*?)(?=^## |\Z)", package.card, flags=re.M | re.S)
    return [line.removeprefix("- ") for line in part[1].strip().splitlines() if line.startswith("- ")] if part else []


def _apart(p: float, line: float) -> tuple[str, str]:
    """Both as percent, with a decimal or two where they would read the same and are not: the answer follows from which is larger."""
    for digits in range(3):
        told = tuple(f"{100 * value:.{digits}f}\u00a0%" if digits else _percent(value) for value in (p, line))
        if told[0] != told[1] or p == line:
            return told[0], told[1]
    return _percent(p), f"{_percent(line)}, just {'below' if p >= line else 'above'} this probability"


def _percent(p: float) -> str:
    """With a space that does not break a line."""
    return "under 1\u00a0%" if p < 0.01 else "over 99\u00a0%" if p > 0.99 else f"{100 * p:.0f}\u00a0%"


def _or(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
