"""An answer in plain words, the same for the reading page, the archive's report and picture, and the command: what the model sees, how sure it is, on
which device. Made from what a client gets (`serving/predictor.py`) and nothing else, so that whoever has an answer can say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core import wording
from components.core.spec import DiseaseSpec
from components.core.uncertainty import LEAST

ASSISTS = "This assists and does not replace the physician. No decision about a patient may rest on it alone."
DEVICES = {
    "known": "the model was tested on it",
    "unseen": "the model was never tested on it",
    "stale": "its profile is out of date",
    "unknown": "nobody said which device this is, so it may be one that the model was never tested on",
}


@dataclass(frozen=True)
class Said:
    """An answer in words.

    Args:
        headline: One sentence. answer: The same in a word or two, for a list.
        short: A few words for a list.
        lines: What a reader should weigh it with; the first is `short`, where there is an answer.
        tone: `positive`, `negative` or `none`.
    """

    headline: str
    answer: str
    short: str
    lines: tuple[str, ...]
    tone: str


def positive(spec: DiseaseSpec) -> dict[str, Any] | None:
    """The part of an answer that says what its interval is about: `classes`, and `name` in words; None where no class is the positive one."""
    target = spec.target
    names = [target.classes[k] for k in spec.positive_indices]
    if not names or target.kind == "multilabel":
        return None
    lowest = target.kind == "ordinal" and target.positive != target.classes[-1]
    return {"classes": names, "name": f"{target.positive} or more" if lowest else str(target.positive)}


def renamed(answer: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The answer with its classes called otherwise, as an archive's codes call them; for `said`."""
    out, sure, asked = dict(answer), dict(answer.get("uncertainty") or {}), answer.get("positive")
    out["probabilities"] = {names.get(name, name): p for name, p in answer["probabilities"].items()}
    if answer["decision"] is not None:
        out["decision"] = "+".join(names.get(name, name) for name in str(answer["decision"]).split("+"))
    if sure.get("set") is not None:
        sure["set"] = [names.get(name, name) for name in sure["set"]]
    if asked is not None:
        name, more, _ = asked["name"].partition(" or more")
        asked = {"classes": [names.get(c, c) for c in asked["classes"]], "name": names.get(name, name) + more}
    return out | {"uncertainty": sure or None, "positive": asked}


def said(answer: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> Said:
    """The answer in words.

    Args:
        asked: As `positive` gives it, for answers from before it stood in them.
    """
    if answer["abstain"]:
        reasons = tuple(wording.sentence(r) for r in answer["reasons"])
        return Said("The model gives no answer for this one.", "No answer", reasons[0] if reasons else "", reasons, "none")
    asked = answer.get("positive") or asked
    p, decided, line = answer["probabilities"], str(answer["decision"]), ""
    classes = decided.split("+")
    lines: list[str] = []
    if asked is not None:
        share = min(1.0, sum(p[name] for name in asked["classes"]))
        point = answer["operating_point"]
        told, line = wording.apart(share, point["thresholds"][0]) if point.get("kind") == "threshold" else (wording.probability(share), "")
        lines += counted(share, told, asked["name"], answer.get("uncertainty") or {})
        tone = "positive" if set(classes) & set(asked["classes"]) else "negative"
    else:
        lines.append(f"{wording.probabilities(p)}.")
        tone = "positive" if decided != "none" else "negative"
    lines += kept(answer)
    if line:
        lines.append(f"The line between the two answers lies at {line}.")
    lines += [wording.sentence(r) for r in answer["reasons"]]
    words = decided.replace("+", ", ")
    return Said(f"The model's answer: {words}.", f"{words[:1].upper()}{words[1:]}", lines[0], tuple(lines), tone)


def counted(share: float, told: str, name: str, sure: Mapping[str, Any]) -> list[str]:
    """The probability, and what was counted near it.

    Where the count contradicts the model both stand in the first line: an interval stands beside the share that it is of, and beside no other figure.
    """
    seen = sure.get("observed")
    if "observed" not in sure or (seen is not None and not seen["from"] <= share <= seen["to"]):  # from before there was any; of another probability
        return [f"Probability of {name}: {told}."]
    if seen is None:
        few = f"Fewer than {LEAST} test samples had a probability near this one: too few to say how many were {name}."
        return [f"Probability of {name}: {told}.", few]
    low, high = wording.outwards(seen["low"], seen["high"])
    count = wording.sentence(wording.observed(seen, name))
    if low <= share <= high:
        return [f"Probability of {name}: {told}.", count]
    own = wording.share(seen["k"], seen["n"])
    return [f"Probability of {name}: {told} by the model, {own} by what was observed; go by the latter.", count]


def kept(answer: Mapping[str, Any]) -> list[str]:
    """The classes that cannot be ruled out, as sentences; none where the reference supports no set."""
    sure = answer.get("uncertainty") or {}
    names, decided = sure.get("set"), str(answer["decision"]).split("+")
    if names is None:
        return []
    level = wording.share(round(100 * (sure.get("coverage") or 0.9)), 100)
    if not names:
        return [f"Of each class at least {level} of the test samples were more clearly of it than this one."]
    others = [name for name in names if name not in decided]
    lines = [f"It cannot rule out {wording.either(others)} (with {level} confidence)." if others else ""]
    if missing := [name for name in decided if name in answer["probabilities"] and name not in names]:
        lines.append(f"Hardly any test sample of {wording.either(missing)} got so low a probability of it.")
    return [line for line in lines if line] or [f"It rules out the other classes (with {level} confidence)."]


def device(answer: Mapping[str, Any]) -> str:
    """One sentence about the device."""
    facts = answer["device"]
    name = " ".join(str(facts[k]) for k in ("manufacturer", "model") if facts.get(k)) or "Device without a name"
    return f"{name}: {DEVICES.get(facts['status'], facts['status'])}."
