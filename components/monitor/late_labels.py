"""Labels that arrive hours to months after the answer, are corrected, and arrive again: what is taken, what is refused and why.

A store is a folder of batches, `<received>-<hash>.jsonl`, one JSON line a label; a batch appears whole or not at all, and is never changed
(only `erase` rewrites). The label in force of a sample is the one made last; what was in force on an earlier day can still be asked.

    new         the sample had no label
    corrected   it had another one, made earlier
    same        nothing new: the same label again, or one made before the label in force
    refused     one of `REFUSALS`; nothing of it is kept
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_file, remove_partials
from components.core.errors import DataError

REFUSALS = {
    "unknown": "no answer has this id",
    "class": "the label is none of the model's classes",
    "version": "the label is for another model version than the one that answered",
    "zone": "the time of the label is missing or has no time zone",
    "early": "the label was made before the answer",
    "future": "the label was made after it was received",
    "conflict": "another label of the same sample was made at the same time",
}


MOST_ID = 64
"""Characters of an id: a request's has up to 39, a keyed hash 16, a digest 64."""


@dataclass(frozen=True)
class Label:
    """What somebody found out about one answered sample.

    Args:
        sample: Id of the answer; never a patient's own id.
        label: Name of a class.
        at: When the label was made, with a time zone.
        version: Digest of the model that answered; "" where the sender does not know it.
    """

    sample: str
    label: str
    at: datetime
    version: str = ""


@dataclass(frozen=True)
class Answers:
    """What the server answered, one row a sample.

    Args:
        sample: (n,) ids, distinct.
        time: (n,) UTC, when the answer left.
        device, version, group: (n,) device key, model digest, patient.
        probabilities: (n, K) calibrated; a row that is not finite is an abstention: known, but not answered.
    """

    sample: NDArray[np.str_]
    time: NDArray[np.datetime64]
    device: NDArray[np.str_]
    version: NDArray[np.str_]
    group: NDArray[np.str_]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.sample)
        for name in ("sample", "device", "version", "group"):
            object.__setattr__(self, name, texts(getattr(self, name)))
        object.__setattr__(self, "time", np.asarray(self.time, dtype="datetime64[us]"))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, dtype=np.float64))
        lengths = [len(getattr(self, name)) for name in ("time", "device", "version", "group", "probabilities")]
        if set(lengths) - {n} or self.probabilities.ndim != 2:
            raise DataError("columns of answers differ in length", where="answers", got=f"{n} and {lengths}")
        if len(np.unique(self.sample)) != n:
            raise DataError("ids of answers repeat", where="answers", got=f"{n - len(np.unique(self.sample))} times")
        if np.isnat(self.time).any():
            raise DataError("answers without a time", where="answers", got=f"{int(np.isnat(self.time).sum())} of {n}")


@dataclass(frozen=True)
class InForce:
    """The label that counts, and how often it was corrected before."""

    label: str
    at: datetime
    corrections: int = 0


@dataclass
class Taken:
    """What became of a delivery: counts of `new`, `corrected`, `same`, `refused`, and each refused sample with its reason."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def reasons(self) -> Counter[str]:
        """How often each of `REFUSALS` was met."""
        return Counter(reason for _, reason in self.refused)

    def __str__(self) -> str:
        text = ", ".join(f"{self.counts[name]} {name}" for name in ("new", "corrected", "same"))
        return text + "".join(f", {count} refused ({REFUSALS[reason]})" for reason, count in sorted(self.reasons.items()))


class LabelStore:
    """Late labels of one model's answers.

    Args:
        folder: Made if absent.
        classes: Names that a label may have.
    """

    def __init__(self, folder: str | Path, classes: Iterable[str]) -> None:
        self.folder, self.classes = Path(folder), tuple(classes)
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, labels: Iterable[Label], answers: Answers, *, received: datetime) -> Taken:
        """Keep what is new; a delivery that arrives twice changes nothing the second time.

        Within one delivery a row is judged after the rows before it, so a label and its correction may come together.

        Args:
            received: Now, with a time zone; the caller's clock, so that a step stays repeatable.

        Raises:
            DataError: `received` has no time zone.
        """
        if received.tzinfo is None:
            raise DataError("time of receipt without a time zone", where="labels")
        taken, fresh = Taken(), []
        place = {name: row for row, name in enumerate(answers.sample.tolist())}
        with locked(self.folder):
            known = self.in_force()
            for label in labels:
                before = known.get(label.sample)
                if reason := self._refusal(label, before, place, answers, received):
                    taken.counts["refused"] += 1
                    taken.refused.append((label.sample, reason))
                elif before is not None and (before.label == label.label or label.at < before.at):
                    taken.counts["same"] += 1
                else:
                    taken.counts["corrected" if before else "new"] += 1
                    known[label.sample] = InForce(label.label, label.at, before.corrections + 1 if before else 0)
                    fresh.append(label)
            if fresh:
                self._write(fresh, received)
        return taken

    def _refusal(self, label: Label, before: InForce | None, place: Mapping[str, int], answers: Answers, received: datetime) -> str:
        """A key of `REFUSALS`, or ""."""
        row = place.get(label.sample)
        if row is None:
            return "unknown"
        if label.label not in self.classes:
            return "class"
        if label.version and label.version != answers.version[row]:
            return "version"
        if not isinstance(label.at, datetime) or label.at.tzinfo is None:
            return "zone"
        if np.datetime64(label.at.astimezone(UTC).replace(tzinfo=None), "us") < answers.time[row]:
            return "early"
        if label.at > received:
            return "future"
        return "conflict" if before is not None and before.at == label.at and before.label != label.label else ""

    def _write(self, labels: list[Label], received: datetime) -> None:
        stamp = received.astimezone(UTC)
        rows = [{"at": x.at.astimezone(UTC).isoformat(), "label": x.label, "received": stamp.isoformat(), "sample": x.sample} for x in labels]
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        name = f"{stamp:%Y%m%dT%H%M%S%fZ}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
        with atomic_file(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def in_force(self, as_of: datetime | None = None) -> dict[str, InForce]:
        """The label of every labelled sample; `as_of`: as it was known then.

        Raises:
            DataError: A batch holds a line that is no label; names file and line.
        """
        found: dict[str, InForce] = {}
        rows = [row for path in sorted(self.folder.glob("*.jsonl")) for row in _rows(path)]
        # Made later wins; of two made at the same time there is only one, `add` refuses the other.
        for label, received in sorted(rows, key=lambda row: (row[0].at, row[1])):
            if as_of is not None and received > as_of:
                continue
            before = found.get(label.sample)
            found[label.sample] = InForce(label.label, label.at, before.corrections + (before.label != label.label) if before else 0)
        return found

    def erase(self, samples: Iterable[str]) -> int:
        """Remove every trace of these samples from every batch; returns how many lines went."""
        gone, count = set(samples), 0
        with locked(self.folder):
            remove_partials(self.folder)
            for path in sorted(self.folder.glob("*.jsonl")):
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if json.loads(line)["sample"] not in gone]
                count += len(lines) - len(kept)
                if not kept:
                    path.unlink()
                elif len(kept) < len(lines):
                    with atomic_file(path) as partial:
                        partial.write_text("".join(kept), encoding="utf-8")
        return count


def texts(values: Iterable[Any]) -> NDArray[np.str_]:
    """(n,) whose elements are all as wide as the longest one: a text that is longer than an id can be is its SHA-256."""
    plain = [str(value) for value in values]
    short = [text if len(text) <= MOST_ID else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in plain]
    return np.array(short, dtype=str)


def _rows(path: Path) -> Iterator[tuple[Label, datetime]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            raw: dict[str, Any] = json.loads(line)
            yield Label(raw["sample"], raw["label"], datetime.fromisoformat(raw["at"])), datetime.fromisoformat(raw["received"])
        except (ValueError, KeyError, TypeError):
            raise DataError("not a label", where=f"{path.name}:{number}", allowed="sample, label, at, received") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time, also across processes."""
    with open(folder / ".lock", "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
