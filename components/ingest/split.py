"""Which group goes into which split: whole groups, the same mix of devices and labels in each, the same answer every time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from components.core.dataset import SPLITS
from components.core.pseudonym import Pseudonymiser
from components.core.spec import Split


def assign(
    groups: Sequence[str], devices: Sequence[str], labels: Sequence[int | None], *, rule: Split, name: str, pseudonymiser: Pseudonymiser
) -> dict[str, str]:
    """{group: split} for every group.

    A stratum is (the group's commonest device, its highest label). Within one, groups come in the order of a keyed hash and each goes to
    the split that is furthest behind its share, counted in samples over the stratum and over everything, so that many small strata do
    not all round the same way.

    Args:
        groups, devices, labels: One entry per sample.
        name: Of the disease; other diseases get other splits of the same patients.
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
    share = {split: getattr(rule, split) for split in SPLITS}
    overall: Counter[str] = Counter()
    given: dict[str, str] = {}
    for stratum in sorted(strata):
        here: Counter[str] = Counter()
        for group in sorted(strata[stratum], key=lambda g: pseudonymiser.id("split", name, g)):
            n = size[group]

            def behind(split: str, n: int = n, here: Counter[str] = here) -> float:
                own = share[split] * (here.total() + n) - here[split]
                everywhere = share[split] * (overall.total() + n) - overall[split]
                return own + everywhere

            chosen = max((s for s in SPLITS if share[s] > 0), key=behind)
            given[group] = chosen
            here[chosen] += n
            overall[chosen] += n
    return given
