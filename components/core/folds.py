"""Cross-validation by group: who trains, who validates and who is tested, for every fold and for the model that is registered.

The manifest's `fold` says in which fold a sample is test. Its `split` is train or val for every sample, and belongs to the model that is
registered; a fold's own validation groups follow from the manifest by a fixed rule, so that train and evaluate agree without a word.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.spec import DiseaseSpec, Split

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 128
FEWEST = 2  # one validation group may be an odd one: a patient without a single positive, a subject who moves like nobody else


def public_names(
    groups: Sequence[str], devices: Sequence[str], contents: Sequence[str], labels: Sequence[int | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """{group: name} and {device: name}: names that follow from what the samples hold, whatever key made their pseudonyms.

    Whatever is drawn or dealt goes by these, so that the same data are divided alike in every home. They are hashes of what stands in the manifest
    and tell no more. Groups that hold the same samples are told apart by their pseudonyms; they are the same to any model.

    Args:
        groups, devices, contents, labels: One entry per sample; `contents` are the manifest's `content_hash`.
    """
    of_device = _named(devices, [f"{content}/{label}" for content, label in zip(contents, labels, strict=True)])
    facts = [f"{content}/{label}/{of_device[device]}" for content, label, device in zip(contents, labels, devices, strict=True)]
    return _named(groups, facts), of_device


def _named(ids: Sequence[str], facts: Sequence[str]) -> dict[str, str]:
    held: dict[str, list[str]] = defaultdict(list)
    for one, fact in zip(ids, facts, strict=True):
        held[one].append(fact)
    hashed = {one: hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest() for one, found in held.items()}
    again: Counter[str] = Counter()
    names: dict[str, str] = {}
    for one in sorted(hashed):
        names[one] = f"{hashed[one]}-{again[hashed[one]]}"
        again[hashed[one]] += 1
    return names


def validation_share(rule: Split) -> float:
    """Share of the samples that are not test which validate."""
    return rule.val / (rule.train + rule.val) if rule.train + rule.val > 0 else 0.0


def validation_groups(groups: Sequence[str], labels: Sequence[int | None], devices: Sequence[str], *, share: float, key: str) -> set[str]:
    """The groups that validate: of `DRAWS` draws, the one whose classes, devices and size come nearest to what they should be.

    At least `FEWEST` groups are taken, and no class is taken from training or left out of validation where that can be helped.

    Args:
        groups, labels, devices: One entry per sample that is not test, by `public_names`; a label of None counts as a class of its own.
        share: Of the samples that should validate, in [0, 1).
        key: Seeds the draws.

    Raises:
        DataError: Fewer than two groups.
    """
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise DataError("too few groups to train and validate on", where="folds", got=len(names), allowed="at least 2")
    take = min(max(FEWEST, round(share * len(names))), len(names) - 1)
    by_class, by_device = (
        _table(index, len(names), [-1 if label is None else int(label) for label in labels]),
        _table(index, len(names), list(devices)),
    )
    size = by_class.sum(1)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    best: tuple[float, NDArray[np.int64]] | None = None
    for _ in range(DRAWS):
        drawn = rng.permutation(len(names))[:take]
        classes, n = by_class[drawn].sum(0), float(size[drawn].sum())
        lost = int((classes == 0).sum() + (classes == by_class.sum(0)).sum())
        off = lost + _distance(classes, by_class.sum(0)) + 0.5 * _distance(by_device[drawn].sum(0), by_device.sum(0)) + abs(n / size.sum() - share)
        if best is None or off < best[0] - 1e-12:
            best = off, drawn
    assert best is not None
    return set(names[best[1]].tolist())


def roles(manifest: pd.DataFrame, spec: DiseaseSpec, fold: int) -> NDArray[np.object_]:
    """`train`, `val` or `test` of every row in one fold; None for rows of external sets.

    Raises:
        DataError: The dataset has no such fold.
    """
    of = manifest["fold"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    test, others = of == fold, np.flatnonzero(np.isfinite(of) & (of != fold))
    if not test.any():
        raise DataError("no such fold", where=f"{spec.name}: fold", got=fold, allowed=", ".join(str(n) for n in fold_numbers(manifest)) or "none")
    rest = manifest.iloc[others]
    groups, devices, labels = rest["group_id"].tolist(), rest["device_key"].tolist(), strata(rest)
    names, of_device = public_names(groups, devices, rest["content_hash"].tolist(), labels)
    chosen = validation_groups(
        [names[g] for g in groups], labels, [of_device[d] for d in devices], share=validation_share(spec.split), key=f"{spec.name}/{fold}"
    )
    found = np.full(len(manifest), None, dtype=object)
    found[test] = "test"
    found[others] = np.where(rest["group_id"].map(names).isin(chosen), "val", "train")
    return found


def fold_numbers(manifest: pd.DataFrame) -> list[int]:
    """The folds of a dataset, ascending; none where there is no cross-validation."""
    return sorted(int(n) for n in manifest["fold"].dropna().unique())


def strata(manifest: pd.DataFrame) -> list[int | None]:
    """The class of each row, or for multi-label the first class that holds."""
    if "labels" in manifest and manifest["labels"].notna().any():
        return [None if v is None else next((k for k, value in enumerate(v) if value > 0), -1) for v in manifest["labels"]]
    return [None if np.isnan(v) else int(v) for v in manifest["label"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)]


def _table(index: NDArray[np.int64], n: int, values: list[int] | list[str]) -> NDArray[np.float64]:
    """(n, values) counts of samples by group."""
    distinct, place = np.unique(np.asarray(values), return_inverse=True)
    counts = np.zeros((n, len(distinct)))
    np.add.at(counts, (index, place), 1)
    return counts


def _distance(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """How far the shares of a part are from those of the whole, in [0, 2]."""
    return float(np.abs(part / part.sum() - whole / whole.sum()).sum())
