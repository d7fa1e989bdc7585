"""Other patients and the same device: does the monitor stay quiet when it knows the mix, and what does it say when it does not?

The worlds of `pixels.py` without its changes. The first device gets windows in which 80 % or 15 % of the people are ill; its reference has the share
of the collection. Known: the class stands for a covariate that tells it, and the strata are the classes. Not known: no strata, as where a server
tells nothing of its patients. A case is an evaluation of that device after persistence; `MIXES` references, three windows each.
"""

from __future__ import annotations

from typing import Any

from tests.benchmarks.drift.pixels import DATA, PHANTOMS, REAL, Watching, World, world

MIXES, WINDOWS, SHARES, MOST = 34, 3, (0.8, 0.15), 2


def run() -> list[dict[str, Any]]:
    rows = []
    for name, (disease, patients) in PHANTOMS.items():
        rows.append(row(f"{name} phantom", world(disease, patients=patients, changing=False)))
        print(rows[-1], flush=True)
    for name, (disease, folder) in REAL.items():
        if (DATA / folder).exists():
            rows.append(row(name, world(disease, source=DATA / folder, changing=False)))
            print(rows[-1], flush=True)
    return rows


def row(name: str, w: World) -> dict[str, Any]:
    known, judged = alarms(w, by_label=True)
    blind, _ = alarms(w, by_label=False)
    cases = MIXES * WINDOWS
    return {
        "data": name,
        "cases": cases,
        "judged": judged,
        "alarms, mix known": known,
        "bound": f"at most {MOST} in 100",
        "holds": "yes" if judged and known <= MOST * judged / 100 else "NO" if judged else "cannot judge",
        "alarms, mix not known": blind,
    }


def alarms(w: World, *, by_label: bool) -> tuple[int, int]:
    """Alarms of the first device, and how often it was judged."""
    found = judged = 0
    for seed in range(MIXES):
        watching = Watching(w, 1000 + seed, by_label=by_label)
        for n in range(2 + WINDOWS):
            result = watching.judge(mix=None if n < 2 else SHARES[seed % 2])["d0"]
            if n >= 2:
                found += bool(result.alarm)
                judged += not result.reason
    return found, judged
