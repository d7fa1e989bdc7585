"""Which group goes into which split: whole groups, the same mix of devices and labels in each, the same answer every time."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from components.core.dataset import SPLITS
from components.core.errors import DataError
from components.core.spec import Split

FOLDS = 100  # each is a training of its own
T = TypeVar("T", bound=Hashable)


def assign(groups: Sequence[str], devices: Sequence[str], labels: Sequence[int | None], *, rule: Split, name: str) -> dict[str, str]:
    """{group: split} for every group, in the shares of `rule`.

    Args:
        groups, devices, labels: One entry per sample; groups and devices by their public names, see `components/core/folds.py`.
        name: Of the disease; other diseases get other splits of the same patients.
    """
    return _distribute(groups, devices, labels, {split: getattr(rule, split) for split in SPLITS}, "split", name)


def assign_folds(groups: Sequence[str], devices: Sequence[str], labels: Sequence[int | None], *, folds: int | str, name: str) -> dict[str, int]:
    """{group: fold 0..k-1} for every group: k folds of about as many samples each, or one fold for each group.

    Raises:
        DataError: More folds than groups, or more groups than anybody would train for.
    """
    n = len(set(groups))
    if folds == "group":
        if not 2 <= n <= FOLDS:
            raise DataError("one fold for each group", where="split.folds", got=f"{n} groups", allowed=f"2 to {FOLDS}")
        return {group: fold for fold, group in enumerate(sorted(set(groups), key=lambda g: _order("fold", name, g)))}
    if n < int(folds) or n < 3:
        raise DataError(
            "more folds than groups", where="split.folds", got=f"{folds} folds, {n} groups", allowed="at least 3 groups, one for each fold"
        )
    return _distribute(groups, devices, labels, {fold: 1 / int(folds) for fold in range(int(folds))}, "fold", name)


def _order(what: str, name: str, group: str) -> str:
    """Where a group comes: without a key, for the same data are divided alike in every home."""
    return hashlib.sha256(f"dxflow/{what}/{name}/{group}".encode()).hexdigest()


def _distribute(
    groups: Sequence[str],
    devices: Sequence[str],
    labels: Sequence[int | None],
    share: dict[T, float],
    what: str,
    name: str,
) -> dict[str, T]:
    """{group: part} for every group.

    A stratum is (the group's commonest device, its highest label). Within one, groups come in the order of a hash and each goes to
    the part that is furthest behind its share, counted in samples over the stratum and over everything, so that many small strata do
    not all round the same way.
    """
    size: Counter[str] = Counter(groups)
    device_of: dict[str, Counter[str]] = defaultdict(Counter)
    highest: dict[str, int] = defaultdict(lambda: -1)
    for group, device, label in zip(groups, devices, labels, strict=True):
        device_of[group][device] += 1
        highest[group] = max(highest[group], -1 if label is None else label)
    strata: dict[tuple[str, int], list[str]] = defaultdict(list)
    for group in size:
        commonest = min(device_of[group], key=lambda d: (-device_of[group][d], d))
        strata[commonest, highest[group]].append(group)
    overall: Counter[T] = Counter()
    given: dict[str, T] = {}
    for stratum in sorted(strata):
        here: Counter[T] = Counter()
        for group in sorted(strata[stratum], key=lambda g: _order(what, name, g)):
            n = size[group]

            def behind(part: T, n: int = n, here: Counter[T] = here) -> float:
                own = share[part] * (here.total() + n) - here[part]
                everywhere = share[part] * (overall.total() + n) - overall[part]
                return own + everywhere

            chosen = max((p for p in share if share[p] > 0), key=behind)
            given[group] = chosen
            here[chosen] += n
            overall[chosen] += n
    return given
