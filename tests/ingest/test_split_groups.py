"""Splits: whole groups, the asked shares, the same mix everywhere, no dependence on order."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from components.core.spec import Split
from components.ingest.split import assign

RULE = Split(grouping="patient", train=0.55, val=0.15, test=0.30)


def samples(seed: int, groups: int) -> list[tuple[str, str, int | None]]:
    rng = random.Random(seed)
    found = []
    for g in range(groups):
        device = rng.choice("ABC")
        found += [(f"g{g}", rng.choice("ABC") if rng.random() < 0.05 else device, rng.choice([0, 0, 1, None])) for _ in range(rng.randint(1, 6))]
    rng.shuffle(found)
    return found


def split(rows: list[tuple[str, str, int | None]], name: str = "lung") -> dict[str, str]:
    groups, devices, labels = zip(*rows, strict=True)
    return assign(groups, devices, labels, rule=RULE, name=name)


@pytest.mark.parametrize("seed", range(20))
def test_every_group_has_one_split_whatever_the_order(seed: int):
    rows = samples(seed, 1 + 10 * seed)
    found = split(rows)
    assert set(found) == {g for g, _, _ in rows}
    random.Random(seed + 1).shuffle(rows)
    assert split(rows) == found


@pytest.mark.parametrize("seed", range(5))
def test_shares_hold_overall_and_on_each_device(seed: int):
    rows = samples(seed, 400)
    found = split(rows)
    for device in (None, "A", "B", "C"):
        counts = Counter(found[g] for g, d, _ in rows if device in (None, d))
        for name, share in (("train", 0.55), ("val", 0.15), ("test", 0.30)):
            assert counts[name] / counts.total() == pytest.approx(share, abs=0.02 if device is None else 0.05)


def test_labels_are_mixed_alike():
    rows = [(f"g{i}", "A", int(i % 4 == 0)) for i in range(400)]
    found = split(rows)
    for name in ("train", "val", "test"):
        labels = [label for g, _, label in rows if found[g] == name]
        assert sum(labels) / len(labels) == pytest.approx(0.25, abs=0.03)


def test_another_disease_gets_another_split():
    rows = [(f"g{i}", "A", 0) for i in range(100)]
    assert split(rows, "lung") != split(rows, "brain")
