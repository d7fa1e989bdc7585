"""A sensor recording as text: one sample for each window, or the one window that is asked for.

Windows are those that ingest cuts. A label column is not needed; where there is one, rows of no class stay out as in training. A window that
ingest would not use gets an answer too: an abstention with the reason. Each answer says how much of the recording no window judges, and why.
"""

from __future__ import annotations

from dataclasses import replace

from components.core.errors import DataError
from components.core.imaging.deidentify import device_identity
from components.core.imaging.errors import NotUsable
from components.core.pseudonym import Pseudonymiser
from components.core.recordings.reading import Reading, typed
from components.core.recordings.table import Table
from components.core.spec import DiseaseSpec
from serving.bodies.body import MOST_WINDOWS, Body
from serving.bodies.text import text
from serving.predictor import Query

TYPES = ("text/csv",)


def fits(spec: DiseaseSpec) -> bool:
    """Windows, where the spec says what a recording's columns mean."""
    return spec.input.layout == "window" and spec.recording is not None


def warm() -> None:
    """Import what the first request would wait for."""
    import pandas  # noqa: F401
    import scipy.interpolate
    import scipy.ndimage
    import scipy.signal  # noqa: F401


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """The windows in order of time."""
    assert spec.recording is not None
    found: list[Query] = []
    with text(body) as handle:
        table = Table(handle, spec.recording, spec.target.classes, labelled=False)
        known = table.facts
        device = device_identity(
            pseudonymiser, key=tuple(known.get(name, "") for name in spec.device.key), manufacturer=known.get("manufacturer", ""),
            model=known.get("model", ""), software=known.get("software", ""),
        )  # fmt: skip
        count, reading = 0, Reading(table, spec)
        for k, window in enumerate(reading.windows()):
            count = k + 1
            if count > MOST_WINDOWS:
                raise NotUsable(f"a recording of more than {MOST_WINDOWS} windows")
            if body.window in (None, k):
                found.append(
                    Query(
                        array=typed(window.values, spec), device_key=body.device_or(device.key), manufacturer=device.manufacturer,
                        device_model=device.model, software=device.software or None, acquisition={"acq_rate_hz": round(1 / table.period_s, 1)},
                        source="recording", part={"window": k, "start_s": round(window.start_s, 6)},
                        faults=() if window.fault is None else (window.fault,),
                    )
                )  # fmt: skip
    coverage = reading.coverage()
    if not count:
        raise DataError("no window: shorter than one, or broken off too often", where=body.where, got=coverage)
    if not found:
        raise DataError("no such window", where=body.names[2], allowed=f"0 to {count - 1}")
    return [replace(query, recording=coverage.to_dict()) for query in found]
