"""The scheduled monitor: what is new in the log, counted into windows; windows that are over, judged; alarms opened, kept and closed.

Every run does the same: read on, close what is over, tell. Run it as often as one likes: the same log and the same time give the same state, a run
that is killed has not happened, and two do not run at once.

    event of a judged window     counted as late, left out (it stays in the log)
    event from the future        counted as skewed, left out
    event that comes twice       counted once
    event of another model       left alone; of another version: counted
    window with few events       carried on into the next one, until enough are there
    device without a name        a device like any other, that is never in the reference
    segment that cannot be read  the others are; it is alarmed (log_losses.py)
    unknown devices              wait until the window is over: `unknown_devices.py`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.inference_log import Tally, since
from components.core.inference_log.tables import STRANGE
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor import (
    alarms,
    answer_events,
    explained,
    labelled,
    log_losses,
    prometheus,
    unknown_devices,
    window_checks,
    window_page,
    words,
)
from components.monitor.case_mix import CaseMix
from components.monitor.detect import WATCH, WINDOWS, Detector, Judged
from components.monitor.performance import Learned, estimate, learn
from components.monitor.silence import DAY_S, misses, usual
from components.monitor.sketch import BINS, Sketch, hashes
from components.monitor.state import State, opened
from components.monitor.telling import Teller
from components.monitor.unknown_devices import OTHERS
from components.monitor.watched import NO_SLIDES, Watched, patients, probabilities, reference_patients

if TYPE_CHECKING:
    import pandas as pd

LATE_S = 3_600
"""How long after its end a window still takes events."""
SKEW_S = 300
"""How far ahead of the monitor a server's clock may be."""
CARRIED = 14
"""Windows after which events that never became enough are given up."""
MOST_VERSIONS = 64
"""Software versions of a device that are remembered, those that came last: a client may make versions up, and a new one is told all the same."""
REQUEST = "request"


@dataclass(frozen=True)
class Schedule:
    """When a window begins, ends and is judged. `window_s`: length, in seconds; windows begin at multiples of it (UTC)."""

    window_s: int = DAY_S
    late_s: int = LATE_S

    def __post_init__(self) -> None:
        if not 60 <= self.window_s <= 31 * DAY_S or self.late_s < 0:
            raise DataError("not a window", where="schedule", got=f"{self.window_s} s, {self.late_s} s late", allowed="60 s to 31 days, late_s >= 0")


def watch(*, package: Path, log: Path, state: Path, now: datetime, schedule: Schedule | None = None) -> dict[str, Any]:
    """One run.

    Args:
        package: A model package folder; every hash in it is verified first.
        log: The folder that the server writes. Records of other models in it are left alone.
        state: Folder of the monitor; this model's own is `<state>/<disease>`.
        now: With a time zone; the caller's clock, so that a run can be repeated.

    Returns:
        The contents of summary.json, with `open_alarms`: those that are open now.

    Raises:
        DataError: Not a package, a log or a state; a time without a zone. ServiceError: another run is at work.
    """
    if now.tzinfo is None:
        raise DataError("a time without a zone", where="now", got=now.isoformat())
    schedule = schedule or Schedule()
    model = ModelPackage.open(package, allow_synthetic=True)  # looking at a model's data is not using it
    watched = Watched.of(model)
    folder = state / model.disease
    tally = Tally()
    with opened(folder / f"{model.digest[:12]}.db", (len(watched.mix.names), len(watched.groups), BINS)) as memory:
        watched = _as_begun(watched, memory)
        if (before := memory.get("window_s", schedule.window_s)) != schedule.window_s:
            raise DataError("windows of another length", where=str(folder), got=schedule.window_s, allowed=before)
        memory.put("window_s", schedule.window_s)
        run = _Run(model, watched, memory, schedule, now, folder)
        run.read(log, tally)
        log_losses.update(memory, model.disease, tally, run.now, schedule.window_s)
        run.close()
        run.take_labels(log, state)
        summary = run.summary(tally)
        rows, told = memory.history(), memory.alarms()
    alarms.export(folder, model, rows, told, summary)
    prometheus.write(state)
    return summary | {"open_alarms": [alarms.told(a) for a in told if a["open"]]}


def _as_begun(watched: Watched, memory: State) -> Watched:
    """With the strata that the state was begun with: its windows were counted in them, whatever would be learned today; a state from before there
    were strata has none."""
    kept = memory.get("case_mix", None)
    mix = CaseMix.from_dict(kept) if kept is not None else watched.mix if memory.fresh else CaseMix()
    memory.put("case_mix", mix.to_dict())
    return replace(watched, mix=mix)


class _Run:
    def __init__(self, model: ModelPackage, watched: Watched, memory: State, schedule: Schedule, now: datetime, folder: Path) -> None:
        self.folder = folder
        self.model, self.watched, self.memory, self.schedule = model, watched, memory, schedule
        self.now = int(now.timestamp())
        self.figures = [name for name, group in watched.groups.items() if group == "image"] if model.spec.input.layout != "table" else []
        self.detector = Detector(watched.reference, memory.get("history", {}))
        self.names: dict[str, list[str | None]] = memory.get("names", {})
        self.counted: Counter[str] = Counter(memory.get("counted", {}))
        self.verdicts, self.refused = 0, 0
        self.software: dict[str, dict[str, int]] = memory.get("software", {})
        self.unheard: dict[str, dict[str, str]] = memory.get("unheard", {})
        self.next: int | None = memory.get("next", None)
        self.blind: set[str] = set(memory.get("blind", []))
        self.past: dict[str, list[tuple[int, dict[str, float]]]] = memory.get("past", {})
        known = {device: [start, 0] for device, start in memory.last_seen().items() if not self._registered(device) and device != OTHERS}
        self.followed: dict[str, list[int]] = memory.get("followed", known)
        self.heard: set[str] = set()
        self.others, self.dropped = (0, 0), set[str]()
        self.teller = Teller(watched, self.names, self.unheard)

    # ---- events into windows

    def read(self, log: Path, tally: Tally) -> None:
        for segment, table in since(log, self.memory.position(), tally):
            self.memory.advance(segment, len(table))
            self._take(table)
        for name, value in (("counted", dict(self.counted)), ("names", self.names), ("unheard", self.unheard), ("blind", sorted(self.blind))):
            self.memory.put(name, value)

    def _take(self, table: pd.DataFrame) -> None:
        mine = table[table["model"] == self.model.name]
        if "event" in mine:
            mine = mine[
                ~mine["event"].isin((REQUEST,))
            ]  # not !=, which is neither true nor false for what is no event; its response says everything that is watched
        current = mine[mine["digest"].isin(self.model.digests).to_numpy()]
        self.counted["other_version"] += len(mine) - len(current)
        self.counted["strange_names"] += int(current[STRANGE].sum()) if STRANGE in current else 0
        self.counted["events"] += len(current)
        at = current["time"]
        self.counted["no_time"] += int(at.isna().sum())
        current = current[at.notna().to_numpy()]
        second = current["time"].to_numpy("datetime64[s]").astype(np.int64)
        ahead = second > self.now + SKEW_S
        self.counted["skewed"] += int(ahead.sum())
        start = second // self.schedule.window_s * self.schedule.window_s
        late = start < self.next if self.next is not None else np.zeros(len(start), bool)
        self.counted["late"] += int((late & ~ahead).sum())
        usable = ~ahead & ~late
        for window in np.unique(start[usable]).tolist():
            self._count(int(window), current[usable & (start == window)].reset_index(drop=True))

    def _count(self, start: int, rows: pd.DataFrame) -> None:
        ids = hashes(rows["request_id"].astype(str).tolist())
        new = np.zeros(len(ids), bool)
        new[np.unique(ids, return_index=True)[1]] = True
        new &= ~np.isin(ids, self.memory.seen(start))
        self.counted["duplicates"] += int((~new).sum())
        self.memory.see(start, ids)
        usable = new & rows["status"].isin(("answered", "abstained", "error", "refused")).to_numpy(bool)
        if not usable.any():
            return
        rows, ids = rows[usable].reset_index(drop=True), ids[usable]
        events, who = answer_events.of(self.watched, rows, self.figures), hashes(patients(rows))
        key = events["device"].to_numpy(str)
        here = np.isin(key, [*self.watched.reference.shares, UNKNOWN_DEVICE])
        for device in np.unique(key[here]).tolist():
            own = key == device
            self._add(start, device, events[own], who[own])
            answered = own & events["answered"].to_numpy(bool)
            if answered.any():
                self._keep(start, device, rows[answered], ids[answered])
        if not here.all():
            self.memory.wait(start, ids[~here], who[~here], unknown_devices.packed(events[~here].reset_index(drop=True)))

    def _add(self, start: int, device: str, events: pd.DataFrame, who: NDArray[np.uint64]) -> None:
        """Count one device's events of a window."""
        if device != OTHERS:
            self._remember(device, events)
        sketch, answered = self.detector.sketch(device), events["answered"].to_numpy(bool)
        part = events[answered]
        if len(part):
            places = self.watched.reference.baseline(device)[0].places
            sketch.add(places, answer_events.features(part), who[answered], part["stratum"].to_numpy(np.int64))
            self.blind |= {device} if part["blind"].any() else set()
        self.memory.add(start, device, sketch, answer_events.facts(events, self.watched.score))

    def _keep(self, start: int, device: str, part: pd.DataFrame, ids: NDArray[np.uint64]) -> None:
        """A sample of the decided answers' probabilities, for the AUC that is expected without labels."""
        p = probabilities(part, self.model.spec.target.classes)
        usable = np.isfinite(p).all(1) & (p >= 0).all(1) & (p <= 1).all(1) & ~part["abstain"].to_numpy(bool) & self.watched.answering(part)
        if usable.any():
            self.memory.add_answers(start, device, ids[usable], hashes(patients(part))[usable], p[usable].astype(np.float32))

    @cached_property
    def learned(self) -> Learned | None:
        """What the reference says of each device's calibration; None where it has no labels of one of a few classes."""
        table, spec = self.watched.answered, self.model.spec
        if table is None or "label" not in table or spec.target.kind not in ("binary", "multiclass", "ordinal"):
            return None
        p = probabilities(table, spec.target.classes)
        usable = np.isfinite(p).all(1) & table["label"].notna().to_numpy()
        if not usable.any():
            return None
        rows = table[usable]
        return learn(
            p[usable], rows["label"].to_numpy(np.int64), rows["device_key"].astype(str), reference_patients(rows), positive=spec.positive_indices
        )

    def _expected(self, start: int, device: str, result: Judged) -> dict[str, float | None]:
        """The history's columns of the label-free AUC; none where the device drifted, is unseen or its assumptions fail."""
        names = ("auc_estimated", "auc_estimated_low", "auc_estimated_high")
        _, who, p = self.memory.answers(start, device, len(self.model.spec.target.classes))
        if self.learned is None or not len(p):
            return dict.fromkeys(names)
        drifted = self.teller.changes(device, result) if result.alarm else ""
        found = estimate(self.learned, p.astype(np.float64), device, who, drift=drifted, about="device")
        return dict(zip(names, (found.value, found.low, found.high), strict=True))

    def _remember(self, device: str, events: pd.DataFrame) -> None:
        self.teller.remember(device, events)
        told = events[events["software"].notna().to_numpy()]
        versions = self.software.setdefault(device, {})
        for version, at in told.groupby("software")["second"].min().items():
            versions.setdefault(str(version), int(at))
        for version in sorted(versions, key=lambda name: (versions[name], name))[:-MOST_VERSIONS]:
            del versions[version]

    # ---- windows that are over

    def close(self) -> None:
        if self.next is None:
            self.next = min(self.memory.windows(), default=None)
        if self.next is not None:
            last = self.now - self.schedule.late_s - self.schedule.window_s
            while self.next <= last:
                self._judge(self.next)
                self.next += self.schedule.window_s
        for name, value in (
            ("next", self.next),
            ("history", self.detector.history),
            ("software", self.software),
            ("past", self.past),
            ("followed", self.followed),
            ("names", self.names),
            ("unheard", self.unheard),
            ("blind", sorted(self.blind)),
        ):
            self.memory.put(name, value)

    def take_labels(self, log: Path, state: Path) -> None:
        """What labels that arrived meanwhile say of the windows; read again only when there is something new."""
        self.verdicts, self.refused = labelled.take_inbox(log, state, self.model, datetime.fromtimestamp(self.now, UTC))
        folder = labelled.store(state, self.model).folder
        signature = [sorted(p.name for p in folder.glob("*.jsonl")), self.next]
        if not signature[0] or signature == self.memory.get("labels", None):
            return
        rows = {(row["window_start"], row["device_key"]): row for row in self.memory.history()}
        windows = {row["window_start"]: row["window_end"] for row in rows.values()}
        now = datetime.fromtimestamp(self.now, UTC)
        told: dict[int, set[str]] = {start: set() for start in windows}
        for start, device in rows:
            told[start].add(device)
        found = {key: s for key, s in labelled.true_figures(log, state, self.model, windows, told, now).items() if key in rows}
        known = {sample: label.label for sample, label in labelled.store(state, self.model).in_force(now).items()}
        said = explained.by_labels(self.watched, log, rows, found, known)
        for key, snapshot in found.items():
            rows[key] |= labelled.row_of(snapshot) | {"mix": said.get(key, "")}
            self.memory.judged(*key, rows[key])
        alarms.explain(self.memory, {key: (rows[key]["window_end"], text) for key, text in said.items()})
        answered, with_label = (sum(row[name] for row in rows.values()) for name in ("answered", "labelled"))
        self.memory.put("coverage", with_label / answered if answered else None)
        self.memory.put("labels", signature)

    def _judge(self, start: int) -> None:
        self._settle(start)
        carried: dict[str, int] = {device: first for device, first in self.memory.get("carried", {}).items() if device not in self.dropped}
        window: dict[str, Sketch] = {}
        facts: dict[str, dict[str, float]] = {}
        for device in {*self.memory.devices(start), *carried}:
            first = carried.get(device, start)
            whole = self.memory.merged(device, first, start + self.schedule.window_s)
            if whole is not None:
                window[device] = whole
            found = self.memory.sketch(start, device)
            facts[device] = found[1] if found else {}
        judged = self.detector.judge(window)
        for device, result in judged.items():
            if device in self.blind and not result.reason:
                result.unjudged = NO_SLIDES
            few = result.reason.startswith("too few")
            first = carried.pop(device, start)
            if not result.reason:
                tested = {name: p for name, (p, _) in self.detector.history[device][-1].items()}
                self.past[device] = [*self.past.get(device, []), (first, tested)][-WINDOWS:]
            if few and (start - first) // self.schedule.window_s + 1 < CARRIED:
                carried[device] = first
        self.memory.put("carried", carried)
        when = alarms.Window(start, start + self.schedule.window_s)
        for device, result in judged.items():
            own = self.memory.sketch(start, device)
            sentence = self.teller.all(device, result)
            self.memory.judged(start, device, self._row(when, device, result, own[0] if own else None, facts.get(device, {}), sentence))
        self._alarm(when, judged, window_checks.failed(facts))
        self.memory.forget(start)
        self._page(when, judged, window)

    def _settle(self, start: int) -> None:
        """Give the answers of unknown devices to those that stand for themselves, and to the rest together."""
        waiting = self.memory.waiting(start)
        events = unknown_devices.unpacked(part for _, _, part in waiting) if waiting else None
        who = np.concatenate([patients_ for _, patients_, _ in waiting]) if waiting else np.zeros(0, np.uint64)
        before = {  # counted when they came, by a monitor that did not wait
            device: found[0].n
            for device in self.memory.devices(start)
            if not self._registered(device) and device != OTHERS and (found := self.memory.sketch(start, device)) is not None
        }
        counts = dict(before)
        for device, n in events.groupby("device")["answered"].sum().items() if events is not None else ():
            counts[str(device)] = counts.get(str(device), 0) + int(n)
        alone = unknown_devices.apart(counts)
        rest = {device: n for device, n in counts.items() if device not in alone}
        for device in sorted(set(before) & set(rest)):
            self.memory.give(start, device, OTHERS)
        if events is not None:
            key = events["device"].to_numpy(str)
            for device in sorted(alone & set(key)):
                self._add(start, device, events[key == device], who[key == device])
            if (others := np.isin(key, list(rest))).any():
                self._add(start, OTHERS, events[others], who[others])
        self.heard, self.others = set(counts), (len(rest), sum(rest.values()))
        self.followed |= {device: [start, counts[device]] for device in alone}
        self._make_room()

    def _make_room(self) -> None:
        """Follow at most so many unknown devices: those that answered last, of these the largest."""
        order = sorted(self.followed, key=lambda device: (-self.followed[device][0], -self.followed[device][1], device))
        self.followed = {device: self.followed[device] for device in order[: unknown_devices.MOST]}
        known = {device for device in self.names if self._registered(device)}
        self.dropped = {*order, *self.names} - known - set(self.followed) - {OTHERS}
        for device in self.dropped:
            for kept in (self.names, self.software, self.unheard, self.past, self.detector.history):
                kept.pop(device, None)
            self.blind.discard(device)
        self.memory.drop_alarms(self.dropped)

    def _registered(self, device: str) -> bool:
        return device in self.watched.reference.shares or device == UNKNOWN_DEVICE

    def _page(self, when: alarms.Window, judged: Mapping[str, Judged], window: Mapping[str, Sketch]) -> None:
        rows, reference = {row["device_key"]: row for row in self.memory.rows(when.start)}, self.watched.reference
        parts = [
            window_page.DevicePart(
                rows[device],
                result.alarm or result.watch,
                reference.baseline(device)[0],
                window.get(device),
                reference.sizes.get(device, 0),
                self.teller.sentences(device, result),
            )
            for device, result in judged.items()
        ]
        model = self.model
        facts = {"title": model.spec.title, "model": model.name, "version": model.version, "digest": model.digest, "synthetic": model.synthetic}
        facts |= {name: f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for name, at in (("start", when.start), ("end", when.end))}
        now = [alarms.told(a) for a in self.memory.alarms() if a["open"]]
        window_page.write(self.folder / "reports" / alarms.report_name(when), facts, parts, now, of=self.teller.words)

    def _row(
        self, when: alarms.Window, device: str, result: Judged, sketch: Sketch | None, facts: Mapping[str, float], sentence: str
    ) -> dict[str, Any]:
        strongest = (result.alarm or result.watch or [None])[0]
        low, high = answer_events.score_quantiles(dict(facts), (0.1, 0.9))
        mean = facts["score_sum"] / facts["score_n"] if facts.get("score_n") else None
        return {
            "window_start": when.start, "window_end": when.end, "model": self.model.name, "version": self.model.version, "device_key": device,
            "label": self.teller.label(device), "status": result.status, "verdict": result.verdict, "reason": result.why,
            "n": sketch.n if sketch else 0, "patients": result.patients,
            "abstained": int(facts.get("abstained", 0)), "errors": int(facts.get("errors", 0)),
            "score_mean": mean, "score_low": low, "score_high": high,
            "drift_feature": strongest.feature if strongest else None, "drift_effect": strongest.effect if strongest else None,
            "drift_p": (strongest.adjusted if result.alarm else strongest.p) if strongest else None, "words": sentence,
            **self._expected(when.start, device, result),
            "auc_true": None, "auc_true_low": None, "auc_true_high": None,
            "labelled": 0, "answered": sketch.n - int(facts.get("abstained", 0)) if sketch else 0,
        }  # fmt: skip

    def _alarm(self, when: alarms.Window, judged: Mapping[str, Judged], broken: Mapping[str, Sequence[str]]) -> None:
        found = list(self._found(when, judged))
        found += [
            alarms.Found("data_quality", device, self.teller.label(device), words.several(said), when.start, tuple(said))
            for device, said in broken.items()
        ]
        settled = {device for device, result in judged.items() if not result.why}
        alarms.update(self.memory, self.model.disease, found, when, settled)

    def _found(self, when: alarms.Window, judged: Mapping[str, Judged]) -> Iterable[alarms.Found]:
        gone = [device for device in self.names if device not in self.heard]  # heard: also among those that are counted together
        absent = [device for device in gone if device not in judged or judged[device].status == "silent"]
        silent = [device for device in absent if misses(self.memory, device, when.start, self.schedule.window_s)]
        for device, result in judged.items():
            label = self.teller.label(device)
            if device == OTHERS:
                continue
            if result.status == "unseen" and result.n:
                text = f"not in the reference of the model: {result.n} answer{'s' if result.n != 1 else ''}"
                twin = next((other for other in silent if self.names.get(other) == self.names.get(device) != [None, None]), None)
                if said := self.teller.changes(device, result):
                    text += f"; unlike the reference: {said}"
                if twin is not None:
                    text += f"; {self.teller.label(twin)}, of the same make, fell silent: perhaps it changed its key"
                yield alarms.Found("unseen", device, label, text, when.start, tuple(self.teller.sentences(device, result)))
            elif result.alarm:
                name = result.alarm[0].name
                first = min((start for start, tested in self.past[device] if tested.get(name, 1.0) <= WATCH), default=when.start)
                yield alarms.Found(
                    result.alarm[0].kind,
                    device,
                    label,
                    f"{self.teller.all(device, result)} (n={result.n})",
                    first,
                    tuple(self.teller.sentences(device, result)),
                )
        if text := unknown_devices.told(*self.others, earlier=len(self.dropped)):
            yield alarms.Found("unseen", OTHERS, unknown_devices.LABEL, text, when.start)
        for device in silent:
            text = f"no answers, {usual(self.memory, device, when.start, self.schedule.window_s):.0f} usual in a window"
            yield alarms.Found("silent", device, self.teller.label(device), text, when.start)
        for device, versions in self.software.items():
            for version, at in versions.items():
                if when.start <= at < when.end and self._new_version(device, version):
                    text = f"a software version that the reference of the model does not have ({version[:8]})"
                    yield alarms.Found("software", device, self.teller.label(device), text, when.start)

    def _new_version(self, device: str, version: str) -> bool:
        table = self.model.reference
        if "software" not in table:
            return False
        known = table.loc[table["device_key"].astype(str) == device, "software"].dropna().astype(str)
        return len(known) > 0 and version not in set(known)

    def summary(self, tally: Tally) -> dict[str, Any]:
        """What summary.json says."""
        return {
            "schema_version": 1, "disease": self.model.disease, "title": self.model.spec.title, "synthetic": self.model.synthetic,
            "model": self.model.name, "version": self.model.version, "updated": datetime.fromtimestamp(self.now, UTC).isoformat(),
            "window_s": self.schedule.window_s, "devices": len(self.names), "events": self.counted["events"], "lost": tally.lost.n,
            "damaged": tally.damaged, "late": self.counted["late"], "skewed": self.counted["skewed"], "duplicates": self.counted["duplicates"],
            "no_time": self.counted["no_time"], "other_version": self.counted["other_version"], "verdicts": self.verdicts,
            "verdicts_refused": self.refused, "strange_names": self.counted["strange_names"], "coverage": self.memory.get("coverage", None),
            "unread": [str(one) for one in tally.unread], "unverified": len(tally.unverified),
            "not_judged": self._not_judged(), "next_window": None if self.next is None else datetime.fromtimestamp(self.next, UTC).isoformat(),
        }  # fmt: skip

    def _not_judged(self) -> str:
        """Why no window was judged so far, or "": a monitor without a verdict must not look like one that found nothing."""
        if any(row["verdict"] != "cannot judge" for row in self.memory.history()):
            return ""
        left = {"other_version": "of another version of the model", "skewed": "from the future", "no_time": "without a time", "late": "too late"}
        said = [f"{self.counted[name]} answers {what}" for name, what in left.items() if self.counted[name]]
        usable = self.counted["events"] - sum(self.counted[name] for name in ("skewed", "no_time", "late", "duplicates"))
        if usable > 0:
            said.insert(0, f"{usable} answers in windows that are open or too small")
        return f"nothing was judged: {', '.join(said) or 'no answers'}"
