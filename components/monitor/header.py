"""Do the pixels look as the header says? A discriminant from figures of image quality to declared acquisition parameters.

A scanner that was reconfigured and still writes the old kernel, a gateway that overwrites tags, a device that borrows another one's name: the tags
are constant, the pixels are not. For each tag of the reference with a few values that the pixels tell apart, every answer is either `as declared`
or `like <another value>`; how often each comes is compared like any other category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

if TYPE_CHECKING:
    import pandas as pd

AS_DECLARED = "as declared"
PREFIX = "header_"
MOST_VALUES = 12
LEAST = 30
"""Reference samples of a value, below which nothing is learned of it."""
TOLD = 0.8
"""Mean share of right answers over the values, out of fold, above which the pixels are taken to tell a tag."""
FOLDS = 5
RIDGE = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """A linear discriminant: class scores = x @ weights + bias, on normal scores of the figures."""

    tag: str
    values: tuple[str, ...]
    weights: Floats
    bias: Floats

    def guess(self, x: Floats) -> NDArray[np.int64]:
        return np.argmax(x @ self.weights + self.bias, axis=1)


@dataclass(frozen=True)
class Headers:
    """Rules for the tags that pixels tell.

    Args:
        figures: Names of the figures, in order.
        sorted_: (figures, n) the reference's values, ascending: normal scores are read off them.
        reference: For each rule, what the reference says of itself out of fold: (n,) texts.
    """

    figures: tuple[str, ...]
    sorted_: Floats
    rules: tuple[Rule, ...]
    reference: tuple[NDArray[np.object_], ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, one for each rule."""
        return tuple(PREFIX + rule.tag.removeprefix("acq_") for rule in self.rules)

    @classmethod
    def learn(cls, table: pd.DataFrame, figures: Sequence[str], tags: Sequence[str], groups: Sequence[str]) -> Headers:
        """From a reference.

        Args:
            table: Columns `figures` (numbers) and `tags` (numbers or texts).
            groups: (n,) patients; a patient is in one fold.
        """
        raw = table[list(figures)].to_numpy(dtype=np.float64) if figures else np.zeros((len(table), 0))
        usable = [k for k in range(raw.shape[1]) if np.isfinite(raw[:, k]).all() and np.ptp(raw[:, k]) > 0]
        names = tuple(figures[k] for k in usable)
        ordered = np.sort(raw[:, usable].T, axis=1)
        x = _scores(raw[:, usable], ordered)
        fold = np.unique(np.asarray(groups), return_inverse=True)[1] % FOLDS
        rules, said = [], []
        for tag in tags if usable else ():
            declared = _declared(table[tag])
            present = np.array([v is not None for v in declared])
            found, times = np.unique(declared[present].astype(str), return_counts=True)
            kinds: list[str] = found.tolist()
            if not 2 <= len(kinds) <= MOST_VALUES or times.min() < LEAST:
                continue
            y = np.searchsorted(found, np.where(present, declared, kinds[0]).astype(str))
            guessed = np.full(len(y), -1)
            for f in range(FOLDS):
                inside = present & (fold != f)
                if len(np.unique(y[inside])) == len(kinds):
                    guessed[fold == f] = _fit(tag, kinds, x[inside], y[inside]).guess(x[fold == f])
            right = [float(np.equal(guessed[present & (y == k)], k).mean()) for k in range(len(kinds))]
            if np.mean(right) >= TOLD:
                rules.append(_fit(tag, kinds, x[present], y[present]))
                said.append(_say(kinds, guessed, declared))
        return cls(names, ordered, tuple(rules), tuple(said))

    def of(self, table: pd.DataFrame) -> dict[str, Any]:
        """Feature -> (n,) texts, None where the tag or a figure is missing or the tag's value is new."""
        if not self.rules:
            return {}
        raw = np.stack([_numbers(table, name) for name in self.figures], axis=1)
        there = np.asarray(np.isfinite(raw).all(axis=1))
        x = _scores(np.where(there[:, None], raw, 0.0), self.sorted_)
        out = {}
        for feature, rule in zip(self.features, self.rules, strict=True):
            declared = _declared(table[rule.tag]) if rule.tag in table else np.full(len(table), None, dtype=object)
            known = np.isin(declared.astype(str), rule.values)
            said = _say(rule.values, rule.guess(x), declared)
            said[~(there & known)] = None
            out[feature] = said
        return out


def _fit(tag: str, kinds: Sequence[str], x: Floats, y: NDArray[np.int64]) -> Rule:
    """Equal priors: how common a value is says nothing of the pixels."""
    means = np.stack([x[y == k].mean(0) for k in range(len(kinds))])
    left = x - means[y]
    shared = left.T @ left / max(1, len(x) - len(kinds)) + RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(shared, means.T)
    return Rule(tag, tuple(kinds), weights.astype(np.float64), -0.5 * np.einsum("kf,fk->k", means, weights))


def _scores(raw: Floats, ordered: Floats) -> Floats:
    """Normal scores of values among the reference's; far outside is as far as the reference's own ends."""
    n = ordered.shape[1]
    rank = np.stack([(np.searchsorted(o, v, "left") + np.searchsorted(o, v, "right")) / 2 for o, v in zip(ordered, raw.T, strict=True)], axis=1)
    return special.ndtri(np.clip((rank + 0.25) / (n + 0.5), 0.5 / n, 1 - 0.5 / n))


def _say(kinds: Sequence[str], guessed: NDArray[np.int64], declared: NDArray[np.object_]) -> NDArray[np.object_]:
    out = np.empty(len(declared), dtype=object)
    for n, (k, text) in enumerate(zip(guessed.tolist(), declared.tolist(), strict=True)):
        out[n] = None if text is None or k < 0 else AS_DECLARED if kinds[k] == text else f"like {kinds[k]}"
    return out


def _declared(column: pd.Series) -> NDArray[np.object_]:
    """Texts; numbers in four digits, so that 120 and 120.0 are one value."""
    import pandas as pd

    return np.array([None if pd.isna(v) else v if isinstance(v, str) else f"{float(v):.4g}" for v in column], dtype=object)


def _numbers(table: pd.DataFrame, name: str) -> Floats:
    import pandas as pd

    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64) if name in table else np.full(len(table), np.nan)
