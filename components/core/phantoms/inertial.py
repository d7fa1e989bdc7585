"""`inertial`: synthetic recordings of worn accelerometers in the layout of the Daphnet set, from simulated units that differ as units do.

    <folder>/phantom.json        what was made: version, seed, counts; says that it is synthetic
    <folder>/S001R01.txt ...     `# device` and `# synthetic`, then time,A0,A1,A2,U0,U1,U2,T1,T2,T3,N: ms, mg, 0 not in the experiment,
                                 1 no freeze, 2 freeze

Each person has a random generator of his own, so bytes depend on the seed only. What walking and freezing look like is frozen
(`PHANTOM_VERSION`, docs/decisions/0120-inertial-phantom.md): models are tuned on it, never it on models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.core.phantoms.collection import collection, devices_of, totals
from components.core.phantoms.inertial_gait import FINE_HZ, FREEZE, Person, course, motion
from components.core.phantoms.inertial_units import KNOWN, UNITS, UNSEEN, Unit

PHANTOM_VERSION = 1
SECONDS = 180.0
OUTSIDE_S = 4.0  # before and after the experiment
COLUMNS = "time,A0,A1,A2,U0,U1,U2,T1,T2,T3,N"


def generate(
    folder: Path, *, patients: int, seed: int, workers: int | None = None, unseen: bool = False, devices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom: the same one is kept as it is, another is replaced.
        patients: One recording of three minutes each.
        seed: Same seed, same bytes.
        workers: Not used; a recording takes a quarter of a second.
        unseen: Only the unit that collections never contain, with persons of their own.
        devices: Keys of `inertial_units.UNITS` to draw from, instead of all known (or the unseen) ones.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else. SpecError: No such unit.
    """
    units = {unit.key: unit for unit in UNITS}
    keys = devices_of(devices, UNSEEN if unseen else KNOWN, KNOWN + UNSEEN)
    request = {"phantom": "inertial", "version": PHANTOM_VERSION, "seed": seed, "patients": patients, "unseen": unseen, "devices": list(keys)}

    def make(root: Path, number: int) -> dict[str, int]:
        unit = units[keys[number % len(keys)]]
        text, freezes = recording(seed=seed, unseen=unseen, unit=unit, number=number)
        (root / f"S{(500 if unseen else 0) + number + 1:03d}R01.txt").write_text(text, encoding="ascii")
        return {"patients": 1, "files": 1, "freezes": freezes, f"recordings_{unit.key}": 1}

    def finish(_: Path, rows: list[dict[str, int]]) -> dict[str, Any]:
        none = {f"recordings_{key}": 0 for key in keys}
        return {"counts": totals([none, *rows]), "units": {key: asdict(units[key]) for key in keys}}

    return collection(folder, request, make, range(patients), finish)


def recording(*, seed: int, unseen: bool, unit: Unit, number: int) -> tuple[str, int]:
    """One file's text, and how many freezes it holds."""
    rng = np.random.default_rng([seed, int(unseen), number])
    person = Person.drawn(rng)
    events = course(person, SECONDS, rng)
    true, state = motion(person, events, rng)
    ms, mg = unit.record(true, FINE_HZ, rng)
    label = np.where(state[np.minimum((ms * FINE_HZ / 1000).astype(np.int64), len(state) - 1)] == FREEZE, 2, 1)
    label[(ms < 1000 * OUTSIDE_S) | (ms > 1000 * (SECONDS - OUTSIDE_S))] = 0
    rows = np.column_stack([ms, mg, label])
    head = f"# device: {unit.key}\n# synthetic: 1\n{COLUMNS}\n"
    return head + "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()), sum(kind == FREEZE for kind, _, _ in events)
