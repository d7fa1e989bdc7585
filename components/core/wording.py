"""Probabilities, shares, counts and intervals in words: the one module that rounds them for a person, whoever prints the line.

A word never claims more than its number: no probability reads 0 % or 100 %, ends of an interval are rounded outwards, and a share stands beside
the count that it comes from. Raw numbers stay as they are in JSON and files. A space stands before the sign;
a page may keep it from breaking (`unbroken`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ANYTHING = "anything"
LEAST_GROUPS = 5
"""Patients below which an interval is so wide that it is not told in words; JSON has it."""
OF = {"test": "test samples", "validation and test": "validation and test samples"}


def probability(p: float) -> str:
    """`67 %`, `under 1 %`, `over 99 %`: what a model computes is never certain."""
    return "under 1 %" if p < 0.01 else "over 99 %" if p > 0.99 else f"{100 * p:.0f} %"


def percent(p: float) -> float:
    """A number of percents with one decimal for a field that takes a number alone: never 0.0 or 100.0."""
    return min(99.9, max(0.1, round(100 * p, 1)))


def apart(p: float, line: float) -> tuple[str, str]:
    """A probability and the line that decides, with a decimal or two where they would read the same and are not: the answer follows from which is
    larger."""
    for digits in range(3):
        told = tuple(f"{100 * value:.{digits}f} %" if digits else probability(value) for value in (p, line))
        if (told[0] != told[1] or p == line) and not {"0.0 %", "100.0 %", "0.00 %", "100.00 %"} & set(told):
            return told[0], told[1]
    return probability(p), f"{probability(line)}, just {'below' if p >= line else 'above'} this probability"


def share(k: int, n: int) -> str:
    """A counted share, `20 %`; what was seen always or never says so, what was seen nearly always does not."""
    return f"{100 * k / n:.0f} %" if k in (0, n) else probability(k / n)


def bounds(low: float, high: float) -> str:
    """`8 % to 39 %`, `at least 91 %`, `at most 9 %`: whole percents, rounded outwards so that nothing is claimed that the interval does not hold."""
    low, high = outwards(low, high)
    if low <= 0 and high >= 1:
        return ANYTHING
    if high >= 1:
        return f"at least {100 * low:.0f} %"
    return f"at most {100 * high:.0f} %" if low <= 0 else f"{100 * low:.0f} % to {100 * high:.0f} %"


def outwards(low: float, high: float) -> tuple[float, float]:
    """An interval within [0, 1] to whole percents, never narrower."""
    return max(0.0, math.floor(100 * low + 1e-9) / 100), min(1.0, math.ceil(100 * high - 1e-9) / 100)


def near(low: float, high: float) -> str:
    """Which probabilities are meant: `90 % or more`, `2 % or less`, `35 % to 45 %`. Both ends are whole percents and belong to it."""
    if high >= 1:
        return f"{100 * low:.0f} % or more" if low > 0 else "any probability"
    return f"{100 * high:.0f} % or less" if low <= 0 else f"{100 * low:.0f} % to {100 * high:.0f} %"


def observed(facts: Mapping[str, Any], what: str) -> str:
    """What was counted near a probability, as a sentence without its full stop.

    Args:
        facts: `observed` of an answer's `uncertainty` (`components/core/uncertainty.py`).
        what: The positive class in words.
    """
    k, n, groups = facts["k"], facts["n"], facts["groups"]
    head = f"of {n} {OF.get(facts['of'], facts['of'])}" + (f" of {_several(groups, facts['grouping'])}" if groups < n else "")
    head += f" with {near(facts['from'], facts['to'])}, {k} {'was' if k == 1 else 'were'} {what}"
    ends = bounds(facts["low"], facts["high"])
    if ends == ANYTHING or groups < LEAST_GROUPS:
        return f"{head}: too few {facts['grouping']}s for an interval"
    return f"{head} ({share(k, n)}; 95 % interval {ends})" if " to " in ends else f"{head}: {ends} (95 % interval)"


def _several(n: int, name: str) -> str:
    return f"{n} {name}{'' if n == 1 else 's'}"


def probabilities(values: Mapping[str, float]) -> str:
    """`melanoma 67 %, nevus 30 %`, the highest first."""
    return ", ".join(f"{name} {probability(v)}" for name, v in sorted(values.items(), key=lambda kv: -kv[1]))


def either(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def sentence(text: str) -> str:
    """With a capital and one full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def unbroken(lines: Iterable[str]) -> tuple[str, ...]:
    """The same with spaces before % that do not break a line."""
    return tuple(line.replace(" %", "\u00a0%") for line in lines)
