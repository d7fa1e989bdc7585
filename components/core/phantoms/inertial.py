"""`inertial`: synthetic recordings of worn accelerometers in the layout of the Daphnet set, from simulated units that differ as units do.

    <folder>/phantom.json        what was made: version, seed, counts; says that it is synthetic
    <folder>/S001R01.txt ...     `# device` and `# synthetic`, then time,A0,A1,A2,U0,U1,U2,T1,T2,T3,N: ms, mg, 0 not in the experiment,
                                 1 no freeze, 2 freeze

Each person has a random generator of his own, so bytes depend on the seed only. What walking and freezing look like is frozen
(`PHANTOM_VERSION`, docs/decisions/0120-inertial-phantom.md): models are tuned on it, never it on models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.core.atomic import atomic_dir
from components.core.errors import DataError, SpecError
from components.core.phantoms.inertial_gait import FINE_HZ, FREEZE, Person, course, motion
from components.core.phantoms.inertial_units import KNOWN, UNITS, UNSEEN, Unit
from components.core.step import Progress

PHANTOM_VERSION = 1
SECONDS = 180.0
OUTSIDE_S = 4.0  # before and after the experiment
COLUMNS = "time,A0,A1,A2,U0,U1,U2,T1,T2,T3,N"
SUMMARY = "phantom.json"


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
    folder = Path(folder)
    keys = tuple(devices) if devices is not None else (UNSEEN if unseen else KNOWN)
    units = {unit.key: unit for unit in UNITS}
    if not keys or any(key not in units for key in keys):
        raise SpecError("no such simulated unit", where="phantom", got=[k for k in keys if k not in units], allowed=", ".join(KNOWN + UNSEEN))
    request = {
        "phantom": "inertial",
        "version": PHANTOM_VERSION,
        "synthetic": True,
        "seed": seed,
        "patients": patients,
        "unseen": unseen,
        "devices": list(keys),
    }
    if folder.exists() and any(folder.iterdir()):
        made = _summary(folder)
        if made is None:
            raise DataError("folder holds something else than a phantom", where=str(folder), allowed="a new or empty folder")
        if {key: made.get(key) for key in request} == request:
            return made
    counts = {"patients": patients, "files": patients, "freezes": 0} | {f"recordings_{key}": 0 for key in keys}
    with atomic_dir(folder) as partial:
        progress = Progress("phantom", patients)
        for number in range(patients):
            unit = units[keys[number % len(keys)]]
            text, freezes = recording(seed=seed, unseen=unseen, unit=unit, number=number)
            (partial / f"S{(500 if unseen else 0) + number + 1:03d}R01.txt").write_text(text, encoding="ascii")
            counts["freezes"] += freezes
            counts[f"recordings_{unit.key}"] += 1
            progress.advance()
        facts = {key: asdict(units[key]) for key in keys}
        summary = request | {"counts": dict(sorted(counts.items())), "units": facts}
        (partial / SUMMARY).write_text(json.dumps(summary, indent=1, sort_keys=True), encoding="utf-8")
    return summary


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


def _summary(folder: Path) -> dict[str, Any] | None:
    try:
        made = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and made.get("phantom") == "inertial" else None
