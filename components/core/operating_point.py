"""From probabilities to a decision: the operating point that evaluate chooses and every server applies.

binary                             positive where p(positive) >= threshold
multi-class, ordinal, hierarchical the class of the highest probability
ordinal, rule "kappa"              the grade in which the expected grade lies, between cut points
multi-label                        each class where its own p >= its threshold
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core import metrics
from components.core.errors import DataError, SpecError
from components.core.spec import DiseaseSpec

TRIED, SWEEPS = 200, 10


@dataclass(frozen=True)
class Decision:
    """A rule from probabilities to classes.

    Args:
        classes: In the order of the probabilities.
        thresholds: Binary: one, for the positive class. Multi-label: one per class. Highest: none. In (0, 1].
            Grades: ascending cut points of the expected grade, one fewer than classes, in [0, K - 1].
        positive: Name of the positive class; binary only.
        rule: The words of the spec, e.g. "sensitivity at least 0.9".
        n: Validation samples it was chosen on.
    """

    kind: Literal["threshold", "highest", "thresholds", "grades"]
    classes: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    positive: str | None = None
    rule: str = ""
    n: int = 0

    def __post_init__(self) -> None:
        wanted = {"threshold": 1, "highest": 0, "thresholds": len(self.classes), "grades": len(self.classes) - 1}
        if self.kind not in wanted or len(self.thresholds) != wanted[self.kind]:
            raise DataError("not an operating point", where="operating point", got=f"{self.kind} with {len(self.thresholds)} thresholds")
        if self.kind == "threshold" and (self.positive not in self.classes or len(self.classes) != 2):
            raise DataError("positive class unknown", where="operating point", got=self.positive, allowed=", ".join(self.classes))
        if self.kind == "grades":
            cuts = self.thresholds
            if not all(0 <= t <= len(cuts) for t in cuts) or list(cuts) != sorted(cuts):
                raise DataError("cut points out of order or range", where="operating point", got=list(cuts), allowed=f"ascending, 0 to {len(cuts)}")
        elif not all(0 < t <= 1 for t in self.thresholds):
            raise DataError("threshold out of range", where="operating point", got=list(self.thresholds), allowed="above 0, at most 1")

    @property
    def threshold(self) -> float | None:
        """Of the positive class; None unless binary."""
        return self.thresholds[0] if self.kind == "threshold" else None

    def decide(self, probabilities: ArrayLike) -> NDArray[Any]:
        """(N, K) probabilities -> (N,) class indices, or (N, K) of bool for multi-label."""
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != len(self.classes):
            raise DataError("probabilities of another shape", where="operating point", got=p.shape, allowed=f"(N, {len(self.classes)})")
        if self.kind == "thresholds":
            return p >= np.asarray(self.thresholds)
        if self.kind == "highest":
            return p.argmax(1)
        if self.kind == "grades":
            return np.searchsorted(self.thresholds, _expected(p), side="right").astype(np.intp)
        positive = self.classes.index(str(self.positive))
        return np.where(p[:, positive] >= self.thresholds[0], positive, 1 - positive)

    def names(self, probabilities: ArrayLike) -> list[str]:
        """The decision in words; multi-label classes are joined by "+", and none of them is "none"."""
        decided = self.decide(probabilities)
        if decided.ndim == 1:
            return [self.classes[k] for k in decided]
        return ["+".join(name for name, yes in zip(self.classes, row, strict=True) if yes) or "none" for row in decided]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "thresholds": list(self.thresholds),
            "positive": self.positive,
            "rule": self.rule,
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Decision:
        """Raises DataError when a key is missing or a value is out of range."""
        try:
            thresholds = tuple(float(t) for t in raw["thresholds"])
            return cls(raw["kind"], tuple(raw["classes"]), thresholds, raw.get("positive"), str(raw.get("rule", "")), int(raw.get("n", 0)))
        except (KeyError, TypeError, ValueError):
            raise DataError("not an operating point", where="operating point", allowed="kind, classes, thresholds") from None


def choose(spec: DiseaseSpec, labels: ArrayLike, probabilities: ArrayLike) -> Decision:
    """The spec's rule applied to the validation split; the test split is never looked at.

    Args:
        labels: (n,) class indices, or (n, K) of 0 and 1.
        probabilities: (n, K), calibrated.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    wish = spec.operating_point
    words = "Youden's J" if wish.rule == "youden" else f"{wish.rule} at least {wish.at_least:g}"
    kind, classes = spec.target.kind, spec.target.classes
    if wish.rule == "kappa":
        return Decision("grades", classes, _cuts(y, _expected(p), len(classes)), None, "highest weighted kappa", len(y))
    if kind == "binary":
        k = spec.positive_index
        return Decision("threshold", classes, (_threshold(spec, y == k, p[:, k]),), spec.target.positive, words, len(y))
    if kind == "multilabel":
        return Decision("thresholds", classes, tuple(_threshold(spec, y[:, k] > 0, p[:, k]) for k in range(len(classes))), None, words, len(y))
    if kind == "dense":
        raise SpecError("no operating point for dense targets", where=f"{spec.name}: target.kind", got="'dense'")
    return Decision("highest", classes, (), None, "highest probability", len(y))


def _expected(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return p @ np.arange(p.shape[1], dtype=np.float64)


def _cuts(y: NDArray[Any], expected: NDArray[np.float64], grades: int) -> tuple[float, ...]:
    """Ascending cut points of the expected grade with the highest quadratic weighted kappa that moving one at a time finds.

    Probabilities that are unsure shrink the expected grade towards its mean, and rounding it then leaves the outer grades empty. The search starts
    where as many samples lie above each cut as have that grade, and tries the middles between neighbouring samples, at most `TRIED` of them.
    """
    values = np.unique(expected)
    middles = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    tried = middles if len(middles) <= TRIED else np.quantile(middles, np.linspace(0, 1, TRIED))
    cuts = np.quantile(expected, [float(np.mean(y <= grade)) for grade in range(grades - 1)])
    top = _agreement(y, np.searchsorted(cuts, expected, side="right"))
    for _ in range(SWEEPS):
        before = top
        for which in range(grades - 1):
            low, high = cuts[which - 1] if which else 0.0, cuts[which + 1] if which + 2 < grades else float(grades - 1)
            for middle in tried[(tried >= low) & (tried <= high)]:
                moved = cuts.copy()
                moved[which] = middle
                value = _agreement(y, np.searchsorted(moved, expected, side="right"))
                if value > top + 1e-9:
                    top, cuts = value, moved
        if top <= before:
            break
    return tuple(float(cut) for cut in cuts)


def _agreement(y: NDArray[Any], decided: NDArray[Any]) -> float:
    """Quadratic weighted kappa: one minus the mean squared distance over that of the same grades at random; 0 where neither varies."""
    apart = float(np.var(y) + np.var(decided) + (np.mean(y) - np.mean(decided)) ** 2)
    return 1 - float(np.mean((y - decided) ** 2)) / apart if apart else 0.0


def _threshold(spec: DiseaseSpec, y: NDArray[np.bool_], p: NDArray[np.float64]) -> float:
    """Half-way between the last sample called positive and the next one, so that rounding in another engine changes no decision."""
    if y.all() or not y.any():
        raise DataError("the operating point needs both classes", where=f"{spec.name}: validation split", got=f"{int(y.sum())} positive of {len(y)}")
    false_alarms, hits, thresholds = metrics.roc(y, p)
    wish = spec.operating_point
    if wish.rule == "sensitivity":  # the first corner that reaches it has the fewest false alarms
        corner = int(np.argmax(hits >= wish.at_least - 1e-12))
    elif wish.rule == "specificity":  # the last corner that still holds it has the most hits
        corner = int(np.flatnonzero(1 - false_alarms >= wish.at_least - 1e-12)[-1])
    else:
        corner = int(np.argmax(hits - false_alarms))
    below = thresholds[corner + 1] if corner + 1 < len(thresholds) else 0.0
    here = thresholds[corner] if np.isfinite(thresholds[corner]) else 1.0
    return float(max((here + below) / 2, np.nextafter(0, 1)))
