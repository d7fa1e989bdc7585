"""The AUC of a device in a window from late labels, with the share of answers that have one, and a warning where that share is not a fair draw.

A snapshot belongs to its window for ever: when labels arrive or are corrected it gets a new revision under the same times, never a new time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import metrics
from components.core.atomic import atomic_file
from components.core.errors import DataError
from components.core.metrics import group_index
from components.monitor.late_labels import Answers, InForce, locked

MIN_PER_CLASS = 5
MIN_TO_COMPARE = 10  # labelled, and unlabelled, answers below which selection cannot be told
SELECTION_P = 0.01

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Snapshot:
    """One device, one model, one window.

    Args:
        start, end: The window [start, end) of the answers, ISO 8601, UTC.
        version: Digest of the model that answered.
        metric: "auc" or "macro_auc", of the labelled answers; value, low and high are None without a figure, and `reason` says why.
        labelled, answered: Their ratio is the label coverage.
        corrected: Labels in force that replaced another one.
        selective: Whether being labelled depends on the score; None: cannot be told. True means that the figure is of the labelled only.
        revision: 0 for the first figure of this window, made from the labels known `as_of`.
    """

    device: str
    start: str
    end: str
    version: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    labelled: int
    answered: int
    corrected: int
    judged: bool
    reason: str
    selective: bool | None
    selection: str
    revision: int = 0
    as_of: str = ""

    @property
    def coverage(self) -> float | None:
        """Labelled / answered, in [0, 1]; None when nothing was answered."""
        return self.labelled / self.answered if self.answered else None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.device, self.version, self.start, self.end

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with `coverage`."""
        return asdict(self) | {"coverage": self.coverage}


def snapshots(
    answers: Answers,
    labels: Mapping[str, InForce],
    classes: Sequence[str],
    *,
    start: datetime,
    end: datetime,
    as_of: datetime,
    positive: Sequence[int] = (),
    devices: Iterable[str] = (),
) -> list[Snapshot]:
    """One for every device and model that answered in [start, end), and for every device named, also when it was silent.

    Args:
        labels: `LabelStore.in_force(as_of)`.
        positive: As `DiseaseSpec.positive_indices`; empty: class 1 of two, macro one-versus-rest of more.

    Raises:
        DataError: A time without a zone, an empty window, classes that do not fit the probabilities.
    """
    if start.tzinfo is None or end.tzinfo is None or as_of.tzinfo is None or not start < end:
        raise DataError("not a window", where="snapshots", got=f"{start} to {end}", allowed="start before end, both and as_of with a time zone")
    if answers.probabilities.shape[1] != len(classes):
        raise DataError("classes and probabilities do not fit", where="snapshots", got=answers.probabilities.shape[1], allowed=len(classes))
    first, last = (np.datetime64(t.astimezone(UTC).replace(tzinfo=None), "us") for t in (start, end))
    inside = (answers.time >= first) & (answers.time < last)
    parts = sorted(set(zip(answers.device[inside].tolist(), answers.version[inside].tolist(), strict=True)))
    silent = sorted(set(devices) - {device for device, _ in parts})
    positive = tuple(positive) or ((1,) if len(classes) == 2 else ())
    window = {"start": start.astimezone(UTC).isoformat(), "end": end.astimezone(UTC).isoformat(), "as_of": as_of.astimezone(UTC).isoformat()}
    found = [
        _snapshot(answers, np.flatnonzero(inside & (answers.device == d) & (answers.version == v)), labels, classes, positive, d, v, window)
        for d, v in parts
    ]
    return found + [_snapshot(answers, np.arange(0), labels, classes, positive, d, "", window) for d in silent]


def _snapshot(
    answers: Answers,
    rows: NDArray[np.int64],
    labels: Mapping[str, InForce],
    classes: Sequence[str],
    positive: tuple[int, ...],
    device: str,
    version: str,
    window: Mapping[str, str],
) -> Snapshot:
    rows = rows[np.isfinite(answers.probabilities[rows]).all(1)]
    known = [labels.get(name) for name in answers.sample[rows].tolist()]
    has = np.array([label is not None for label in known], dtype=bool)
    number = {name: k for k, name in enumerate(classes)}
    y = np.array([number[label.label] for label in known if label is not None], dtype=np.int64)
    p, groups = answers.probabilities[rows], answers.group[rows]
    scores = p[:, list(positive)].sum(1, keepdims=True) if positive else p
    if not len(rows):
        figure = metrics.insufficient(0, "nothing was answered")
    elif not has.any():
        figure = metrics.insufficient(0, "no label has arrived")
    elif positive:
        figure = metrics.auc_interval(np.isin(y, positive), scores[has, 0], groups[has], min_per_class=MIN_PER_CLASS)
    else:
        figure = metrics.macro_auc(y, scores[has], groups[has], min_per_class=MIN_PER_CLASS)
    selective, words = selection(scores, has, groups)
    return Snapshot(
        device=device,
        version=version,
        metric="auc" if positive else "macro_auc",
        value=figure.value,
        low=figure.low,
        high=figure.high,
        labelled=int(has.sum()),
        answered=len(rows),
        corrected=sum(label.corrections > 0 for label in known if label is not None),
        judged=figure.value is not None,
        reason=figure.reason or "",
        selective=selective,
        selection=words,
        start=window["start"],
        end=window["end"],
        as_of=window["as_of"],
    )


def selection(scores: Floats, labelled: NDArray[np.bool_], groups: NDArray[Any] | None = None) -> tuple[bool | None, str]:
    """Whether labels are more often present for high, low, extreme or middling scores.

    If they are, the AUC of the labelled answers is biased (verification bias). That the presence depends on the truth itself, at equal scores,
    no test on these data can find.

    Args:
        scores: (n, columns).
        labelled: (n,).

    Returns:
        True, False, or None where too few are labelled or unlabelled; and the words for it.

    Source:
        Begg and Greenes, Biometrics 1983. Score test of presence against ranks, summed by group, so that a patient counts once.
    """
    from scipy.stats import norm, rankdata

    have, lack = int(labelled.sum()), int((~labelled).sum())
    if not lack and have:
        return False, "every answer has a label"
    if min(have, lack) < MIN_TO_COMPARE:
        return None, f"cannot be told ({have} with a label, {lack} without)"
    index = group_index(groups, len(labelled))
    index = np.arange(len(labelled)) if index is None else index
    presence = labelled - labelled.mean()
    tests = []
    for column in scores.T:
        rank = (rankdata(column) - 0.5) / len(column) - 0.5
        for kind, x in (("higher", rank), ("extreme", np.abs(rank))):
            sums = np.bincount(index, (x - x.mean()) * presence)
            z = float(sums.sum() / np.sqrt(max(float((sums**2).sum()), 1e-12)))
            tests.append((2 * float(norm.sf(abs(z))), kind, z))
    p, kind, z = min(tests)
    p = min(1.0, p * len(tests))
    if p >= SELECTION_P:
        return False, f"no selection by score found (p={p:.2g})"
    words = {("higher", True): "higher", ("higher", False): "lower", ("extreme", True): "more extreme", ("extreme", False): "more middling"}
    return True, f"labelled answers have {words[kind, z > 0]} scores (p={p:.2g}): the AUC is of the labelled, not of the window"


# ---- revisions -------------------------------------------------------------------------------------------------------------------------


class SnapshotStore:
    """Snapshots and their revisions: JSON lines, one file for each month of window starts, replaced as a whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(self, made: Iterable[Snapshot]) -> list[Snapshot]:
        """Keep those that say something new; returns them with their revision.

        A snapshot equal to its window's last revision is not kept again, whenever it was made.
        """
        kept: list[Snapshot] = []
        with locked(self.folder):
            by_month: dict[str, list[Snapshot]] = {}
            for snapshot in made:
                by_month.setdefault(snapshot.start[:7], []).append(snapshot)
            for month, batch in by_month.items():
                path = self.folder / f"{month}.jsonl"
                stored = _read(path)
                last = {old.key: old for old in stored}
                fresh = []
                for snapshot in batch:
                    old = last.get(snapshot.key)
                    if old is not None and replace(snapshot, revision=old.revision, as_of=old.as_of) == old:
                        continue
                    last[snapshot.key] = replace(snapshot, revision=0 if old is None else old.revision + 1)
                    fresh.append(last[snapshot.key])
                if fresh:
                    with atomic_file(path) as partial:
                        partial.write_text("".join(json.dumps(asdict(s), sort_keys=True) + "\n" for s in stored + fresh), encoding="utf-8")
                kept += fresh
        return kept

    def all(self) -> list[Snapshot]:
        """Every revision, by window, in the order they were made. Raises DataError for a line that is no snapshot."""
        return [snapshot for path in sorted(self.folder.glob("*.jsonl")) for snapshot in _read(path)]

    def latest(self) -> list[Snapshot]:
        """The last revision of every device, model and window, ordered by time."""
        found = {snapshot.key: snapshot for snapshot in self.all()}
        return sorted(found.values(), key=lambda s: (s.start, s.device, s.version))


def _read(path: Path) -> list[Snapshot]:
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(Snapshot(**json.loads(line)))
        except (ValueError, TypeError):
            raise DataError("not a snapshot", where=f"{path.name}:{number}") from None
    return found
