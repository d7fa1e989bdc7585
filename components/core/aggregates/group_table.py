"""What every way of aggregating needs: the groups of a table, their labels, answers for groups that were not learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

    from components.core.aggregates import Aggregator

FOLDS = 5


def scores_of(samples: pd.DataFrame, spec: DiseaseSpec) -> NDArray[np.float64]:
    """(n, K) probabilities."""
    return samples[[f"score_{name}" for name in spec.target.classes]].to_numpy(dtype=np.float64)


def by_group(samples: pd.DataFrame, spec: DiseaseSpec, answer: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> pd.DataFrame:
    """`answer`, (n, K) -> (K,), for each group."""
    ids = samples["group_id"].to_numpy(dtype=object)
    p = scores_of(samples, spec)
    names, member = np.unique(ids.astype(str), return_inverse=True)
    return table(spec, names, np.stack([answer(p[member == g]) for g in range(len(names))]) if len(names) else np.zeros((0, p.shape[1])))


def table(spec: DiseaseSpec, groups: Any, p: NDArray[np.float64]) -> pd.DataFrame:
    """Groups with their probabilities, (n, K)."""
    import pandas as pd

    return pd.DataFrame({"group_id": np.asarray(groups, dtype=object)} | {f"score_{name}": p[:, k] for k, name in enumerate(spec.target.classes)})


def labels(samples: pd.DataFrame, spec: DiseaseSpec) -> dict[str, int]:
    """{group: class index}: what the source says of the group; else the label that all its samples share; else, for a binary target, the
    positive class as soon as one sample has it.

    Raises:
        DataError: Samples of one group disagree and no rule says what that makes the group.
    """
    found: dict[str, int] = {}
    for group, rows in samples.groupby("group_id", sort=True):
        said = {int(v) for v in rows["group_label"].dropna()} if "group_label" in rows else set()
        own = {int(v) for v in rows["label"]}
        if len(said) == 1:
            found[str(group)] = said.pop()
        elif not said and len(own) == 1:
            found[str(group)] = own.pop()
        elif not said and spec.target.kind == "binary":
            found[str(group)] = spec.positive_index
        else:
            raise DataError("samples of one group have different labels", where="aggregate", got=f"{len(said or own)} labels", allowed="one")
    return found


def out_of_fold(make: Callable[[], Aggregator], samples: pd.DataFrame, spec: DiseaseSpec, *, seed: int, folds: int = FOLDS) -> pd.DataFrame:
    """Answers for groups by aggregators that have not learned from them: thresholds and calibration rest on these.

    Groups of each label are dealt over the folds by a hash of their id.
    """
    import pandas as pd

    if not make().trained:
        return make().apply(samples)
    truth = labels(samples, spec)
    fold: dict[str, int] = {}
    for label in sorted(set(truth.values())):
        own = sorted((g for g in truth if truth[g] == label), key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).hexdigest())
        fold |= {group: n % folds for n, group in enumerate(own)}
    place = samples["group_id"].map(fold).to_numpy()
    parts = []
    for k in sorted(set(fold.values())):
        one = make()
        one.fit(samples[place != k], seed=seed)
        parts.append(one.apply(samples[place == k]))
    return pd.concat(parts, ignore_index=True).sort_values("group_id", ignore_index=True)


class Plain:
    """An aggregator that learns nothing: a rule over the probabilities of a group's samples."""

    trained = False

    def __init__(self, spec: DiseaseSpec, answer: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        self.spec, self.answer = spec, answer

    def fit(self, samples: pd.DataFrame, *, seed: int) -> None:
        pass

    def apply(self, samples: pd.DataFrame) -> pd.DataFrame:
        return by_group(samples, self.spec, self.answer)

    def save(self, folder: Any) -> None:
        pass

    def load(self, folder: Any) -> None:
        pass
