"""Which patients a window has: a few strata of age, sex and place on the body, so that other patients are not taken for another device.

The strata are learned from the reference: a covariate that moves some watched feature is split where it moves them most, one split after another,
until nothing clear is left, a stratum would get too small, or there are enough of them. A window is then compared with the reference as if it had
the window's own mix (`detect.py`). What of an answer's patient is not told, or was never seen, has a stratum of its own:

    not given              the server told nothing: compared with the reference as a whole, as without strata
    not in the reference   a value or an age that no reference sample has: left out of the comparison, and told
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

if TYPE_CHECKING:
    import pandas as pd

AGE, SEX, SITE = "cov_age_years", "cov_sex", "cov_body_site"
NOT_GIVEN, UNHEARD = "not given", "not in the reference"
ALL = "all"
"""The only stratum where nothing is known of the case mix."""
MOST = 6
"""Strata: each costs the comparison some of its reference."""
LEAST, CELL, THIN = 40, 5, 0.1
"""Reference events of a stratum; of a stratum on one device, below which its answers there are left out; share of events that may stand in such."""
GAIN, CHANCE = 0.01, 0.001
"""A split counts for a feature whose variance it explains by this share, and more than any split would by chance with this probability."""
ROUND = 5  # years, of a cut
BEYOND = 0.1  # of the reference's range of ages: how far outside an age is still like its ends
SEXES = {"F": "women", "M": "men", "O": "people of other sex"}
Floats = NDArray[np.float64]
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class CaseMix:
    """Strata and how an event finds its own.

    Args:
        names: As a reader calls them. The first two are `NOT_GIVEN` and `UNHEARD`, unless there is only `ALL`.
        tree: A node is `{"column", "then", "else"}` with `below` and `range` for numbers, `among` and `known` for words; a leaf is a place in
            `names`. None without strata. Plain data, so that a state can keep it.
    """

    names: tuple[str, ...] = (ALL,)
    tree: Tree | None = None

    @classmethod
    def learn(cls, table: pd.DataFrame, features: Mapping[str, NDArray[Any]], devices: Sequence[str], patients: Sequence[str]) -> CaseMix:
        """From the reference.

        Args:
            table: With the covariates that it has, of `AGE`, `SEX`, `SITE`; anything else is ignored.
            features: Name -> (n,) watched values, numbers or words.
        """
        known = {name: values for name in (AGE, SEX, SITE) if name in table and len(np.unique((values := _values(table, name))[_there(values)])) > 1}
        if not known or not features:
            return cls()
        device = np.unique(np.asarray([str(d) for d in devices]), return_inverse=True)[1]
        grown = _grown(known, _standard(features, device), device, len(set(patients)))
        return cls() if grown is None else cls(*_named(grown, known))

    @property
    def known(self) -> bool:
        return self.tree is not None

    def strata(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """(n,) place of each row's stratum in `names`."""
        if self.tree is None:
            return np.zeros(len(table), np.int64)
        columns = {name: _values(table, name) for name in _columns(self.tree)}
        return _placed(self.tree, columns, np.arange(len(table)), np.zeros(len(table), np.int64))

    def to_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "tree": self.tree}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> CaseMix:
        return cls(tuple(kept["names"]), kept["tree"])


def changed(before: Floats, after: Floats, m: float, n: float, *, level: float = 0.01) -> bool:
    """Is the mix another one? Chi squared on counts, lowered to `m` and `n` patients.

    Args:
        before, after: (strata,) counts of reference and window.
    """
    if not before.sum() or not after.sum():
        return False
    a, b = before / before.sum(), after / after.sum()
    pooled = (m * a + n * b) / (m + n)
    used = pooled > 0
    statistic = m * n / (m + n) * ((a - b)[used] ** 2 / pooled[used]).sum()
    return bool(used.sum() > 1 and stats.chi2.sf(statistic, used.sum() - 1) <= level)


# ---- an event's stratum ----------------------------------------------------------------------------------------------------------------


def _values(table: pd.DataFrame, name: str) -> NDArray[Any]:
    """(n,) ages as numbers (NaN where unknown), the others as words ("" where unknown)."""
    import pandas as pd

    if name not in table:
        return np.full(len(table), np.nan) if name == AGE else np.full(len(table), "", dtype=object)
    if name == AGE:
        return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    return np.array(["" if gone else str(value) for value, gone in zip(table[name], table[name].isna(), strict=True)], dtype=object)


def _there(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isfinite(values) if values.dtype.kind == "f" else values != ""


def _columns(tree: Tree | int) -> set[str]:
    return set() if isinstance(tree, int) else {tree["column"], *_columns(tree["then"]), *_columns(tree["else"])}


def _placed(tree: Tree | int, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], out: NDArray[np.int64]) -> NDArray[np.int64]:
    """Write the places of `rows` into `out`, which begins as `NOT_GIVEN`."""
    if isinstance(tree, int):
        out[rows] = tree
        return out
    values = columns[tree["column"]][rows]
    if "below" in tree:
        low, high = tree["range"]
        margin = BEYOND * (high - low)
        new = (values < low - margin) | (values > high + margin)
        first = values < tree["below"]
    else:
        new = (values != "") & ~np.isin(values, tree["known"])
        first = np.isin(values, tree["among"])
    out[rows[new]] = 1
    usable = _there(values) & ~new
    _placed(tree["then"], columns, rows[usable & first], out)
    return _placed(tree["else"], columns, rows[usable & ~first], out)


# ---- learning --------------------------------------------------------------------------------------------------------------------------


def _standard(features: Mapping[str, NDArray[Any]], device: NDArray[np.int64]) -> Floats:
    """(n, columns): normal scores of numbers and indicators of words' common values, without what devices differ by, of variance 1."""
    columns: list[Floats] = []
    for values in features.values():
        if values.dtype.kind in "biuf":
            there = np.isfinite(values)
            score = np.zeros(len(values))
            if there.sum() > 1:
                score[there] = special.ndtri((stats.rankdata(values[there]) - 0.5) / there.sum())
            columns.append(score)
        else:
            words = np.array(["" if v is None else str(v) for v in values])
            kinds, times = np.unique(words, return_counts=True)
            common = kinds[np.argsort(-times, kind="stable")][:MOST]
            columns += [(words == kind).astype(np.float64) for kind in common.tolist()]
    y = np.stack(columns, axis=1)
    size = np.maximum(np.bincount(device), 1)
    for f in range(y.shape[1]):
        y[:, f] -= (np.bincount(device, y[:, f]) / size)[device]
    spread = y.std(0)
    return y[:, spread > 1e-6] / spread[spread > 1e-6]


def _grown(known: Mapping[str, NDArray[Any]], y: Floats, device: NDArray[np.int64], patients: int) -> Tree | None:
    """The tree with leaves as row numbers; None where no split is clear."""
    leaves: list[NDArray[np.int64]] = [np.arange(len(device))]
    nodes: list[tuple[int, dict[str, Any]]] = []  # leaf that was split, and how; its "then" keeps the number, its "else" gets a new one
    tried = sum(1 for _ in _candidates(known, leaves[0])) * max(1, y.shape[1])
    clear = stats.chi2.isf(CHANCE / max(1, tried), 1)  # of patients, not of events: those of one patient have the same age
    while len(leaves) < MOST:
        best: tuple[float, int, dict[str, Any], NDArray[np.int64], NDArray[np.int64]] | None = None
        for n, rows in enumerate(leaves):
            for rule, first in _candidates(known, rows):
                usable = _there(known[rule["column"]][rows])
                sides = rows[usable & first], rows[usable & ~first]
                if min(map(len, sides)) < LEAST or _thin([*leaves[:n], *sides, *leaves[n + 1 :]], device) > THIN:
                    continue
                a, b = map(len, sides)
                gain = a * b / (a + b) * (y[sides[0]].mean(0) - y[sides[1]].mean(0)) ** 2 / len(y)
                told = float(gain[(gain >= GAIN) & (gain * patients >= clear)].sum())
                if told > 0 and (best is None or told > best[0]):
                    best = told, n, rule, *sides
        if best is None:
            break
        _, n, rule, first, other = best
        nodes.append((n, rule))
        leaves[n] = first
        leaves.append(other)
    tree: Any = 0 if nodes else None
    for k, (n, rule) in enumerate(nodes, 1):
        tree = _replaced(tree, n, rule | {"then": n, "else": k})
    return tree


def _candidates(known: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    for column, whole in known.items():
        values = whole[rows]
        there = values[_there(values)]
        if not len(there):
            continue
        if values.dtype.kind == "f":
            everyone = whole[np.isfinite(whole)]
            cuts = np.unique(ROUND * np.round(np.quantile(there, np.arange(1, 10) / 10) / ROUND))
            for cut in cuts.tolist():
                yield {"column": column, "below": float(cut), "range": [float(everyone.min()), float(everyone.max())]}, values < cut
        else:
            everyone = sorted(set(whole[whole != ""].tolist()))
            for value in sorted(set(there.tolist())):
                yield {"column": column, "among": [value], "known": everyone}, values == value


def _thin(leaves: Sequence[NDArray[np.int64]], device: NDArray[np.int64]) -> float:
    """Share of the events that are one of fewer than `CELL` of their stratum and device."""
    cells = [np.bincount(device[rows]) for rows in leaves]
    return sum(int(c[c < CELL].sum()) for c in cells) / max(1, len(device))


def _replaced(tree: Any, leaf: int, by: Tree) -> Any:
    if isinstance(tree, int):
        return by if tree == leaf else tree
    return dict(tree) | {"then": _replaced(tree["then"], leaf, by), "else": _replaced(tree["else"], leaf, by)}


def _named(tree: Tree, known: Mapping[str, NDArray[Any]]) -> tuple[tuple[str, ...], Tree]:
    """Names of the leaves, and the tree with their places among them."""
    names = [NOT_GIVEN, UNHEARD]

    def walk(node: Any, age: tuple[float, float], words: Mapping[str, tuple[str, ...]]) -> Any:
        if isinstance(node, int):
            names.append(_said(age, words, known))
            return len(names) - 1
        if "below" in node:
            sides = [((age[0], min(age[1], node["below"])), words), ((max(age[0], node["below"]), age[1]), words)]
        else:
            column = node["column"]
            left = words.get(column, tuple(node["known"]))
            among = [tuple(v for v in left if (v in node["among"]) == inside) for inside in (True, False)]
            sides = [(age, {**words, column: part}) for part in among]
        return dict(node) | {"then": walk(node["then"], *sides[0]), "else": walk(node["else"], *sides[1])}

    numbered = walk(tree, (-np.inf, np.inf), {})
    return tuple(names), numbered


def _said(age: tuple[float, float], words: Mapping[str, tuple[str, ...]], known: Mapping[str, NDArray[Any]]) -> str:
    """One stratum in words, e.g. `women from 50 to 69 years, back`."""
    sexes = words.get(SEX)
    out = " or ".join(SEXES.get(v, v) for v in sexes) if sexes else "patients"
    low, high = age
    if np.isfinite(low) and np.isfinite(high):
        out += f" from {low:.0f} to {high - 1:.0f} years"
    elif np.isfinite(low):
        out += f" of {low:.0f} years and over"
    elif np.isfinite(high):
        out += f" under {high:.0f} years"
    if sites := words.get(SITE):
        others = sorted(set(known[SITE][known[SITE] != ""].tolist()) - set(sites))
        out += f", {' or '.join(sites)}" if len(sites) <= len(others) else f", not {' or '.join(others)}"
    return out
