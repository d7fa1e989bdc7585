"""Alarms come for the device and the feature that changed, and for nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError
from components.monitor.detect import Detector, Judged
from components.monitor.reference import Reference
from components.monitor.sketch import Sketch, hashes

FEATURES = 6
Columns = dict[str, Any]


def drawn(rng: np.random.Generator, n: int) -> Columns:
    return {f"f{k}": rng.normal(size=n) for k in range(FEATURES)} | {"kernel": rng.choice(["B30", "B50"], n, p=[0.7, 0.3]).astype(object)}


def reference(seed: int = 0, devices: tuple[str, ...] = ("a", "b"), n: int = 1500) -> Reference:
    rng = np.random.default_rng(seed)
    parts = [drawn(rng, n) for _ in devices]
    return Reference.of(
        {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, np.repeat(devices, n).tolist(), np.arange(n * len(devices))
    )


def window(detector: Detector, device: str, columns: Columns, patients: Any = None, strata: Any = None) -> Sketch:
    n = len(next(iter(columns.values())))
    sketch = detector.sketch(device)
    groups = hashes(patients if patients is not None else np.random.default_rng(n).integers(0, 1 << 60, n))
    sketch.add(detector.reference.baseline(device)[0].places, columns, groups, strata)
    return sketch


def run(detector: Detector, *windows: dict[str, Columns]) -> list[dict[str, Judged]]:
    return [detector.judge({device: window(detector, device, columns) for device, columns in one.items()}) for one in windows]


def test_a_shift_of_half_a_deviation_is_an_alarm_in_its_second_window_and_names_device_and_feature() -> None:
    rng, detector = np.random.default_rng(1), Detector(reference())
    first, second = run(detector, *({"a": drawn(rng, 300) | {"f3": rng.normal(0.5, 1, 300)}, "b": drawn(rng, 300)} for _ in range(2)))
    assert first["a"].verdict == "watch"
    assert second["a"].verdict == "drift"
    assert second["a"].alarm[0].feature == "f3"
    assert second["a"].alarm[0].aspect == "location"
    assert second["a"].alarm[0].effect == pytest.approx(0.5, abs=0.15)
    assert not first["b"].alarm
    assert not second["b"].alarm


def test_a_change_that_does_not_come_back_is_no_alarm_and_a_window_too_small_does_not_end_one() -> None:
    rng, detector = np.random.default_rng(2), Detector(reference())
    changed = lambda: drawn(rng, 300) | {"f0": rng.normal(0.6, 1, 300)}
    one, two, three = run(detector, {"a": changed()}, {"a": drawn(rng, 300)}, {"a": drawn(rng, 300)})
    assert [j["a"].verdict for j in (one, two, three)] == ["watch", "no drift found", "no drift found"]
    one, two, three = run(detector, {"a": changed()}, {"a": drawn(rng, 10)}, {"a": changed()})
    assert (one["a"].verdict, two["a"].verdict, three["a"].verdict) == ("watch", "cannot judge", "drift")
    assert two["a"].reason == "too few events (n=10, at least 25)"


def test_memory_between_runs_is_plain_data() -> None:
    rng, kept = np.random.default_rng(3), Detector(reference())
    run(kept, {"a": drawn(rng, 300) | {"f1": rng.normal(0.6, 1, 300)}})
    again = Detector(kept.reference, kept.history)
    (found,) = run(again, {"a": drawn(rng, 300) | {"f1": rng.normal(0.6, 1, 300)}})
    assert found["a"].verdict == "drift"


def test_silent_and_unseen_devices_are_told_apart() -> None:
    rng, detector = np.random.default_rng(4), Detector(reference())
    other = {name: values if name == "kernel" else values + 2 for name, values in drawn(rng, 100).items()}
    (found,) = run(detector, {"new": other, "b": drawn(rng, 100)})
    assert (found["a"].status, found["a"].verdict, found["a"].reason) == ("silent", "cannot judge", "no events")
    assert (found["new"].status, found["new"].against, found["new"].verdict) == ("unseen", "pooled", "watch")
    assert found["b"].verdict == "no drift found"


def test_many_events_of_few_patients_are_few() -> None:
    rng, detector = np.random.default_rng(5), Detector(reference())
    found = detector.judge({"a": window(detector, "a", drawn(rng, 300), patients=np.repeat(np.arange(3), 100))})
    assert found["a"].verdict == "cannot judge"
    assert found["a"].reason.startswith("too few patients")


def test_what_patients_share_is_no_drift() -> None:
    """20 events each that share 80 % of their variance: with events taken for independent, most windows would give a candidate."""
    rng = np.random.default_rng(6)

    def clustered(patients: int) -> tuple[Columns, Any]:
        group = np.repeat(np.arange(patients), 20)
        return {f"f{k}": 2 * rng.normal(size=patients)[group] + rng.normal(size=len(group)) for k in range(FEATURES)}, group

    columns, groups = clustered(200)
    detector = Detector(Reference.of(columns, ["a"] * len(groups), groups))
    verdicts = []
    for _ in range(40):
        columns, groups = clustered(15)
        verdicts.append(detector.judge({"a": window(detector, "a", columns, patients=groups)})["a"].verdict)
    assert verdicts.count("drift") == 0
    assert verdicts.count("watch") <= 6


def test_another_case_mix_is_no_drift_where_the_mix_is_known() -> None:
    """The diseased have higher values; a window with three times as many of them is the same device."""
    rng = np.random.default_rng(7)

    def mixed(n: int, share: float) -> tuple[Columns, np.ndarray]:
        ill = rng.random(n) < share
        return {"f0": rng.normal(size=n) + 2 * ill}, ill.astype(np.int64)

    columns, ill = mixed(3000, 0.2)
    blind = Detector(Reference.of(columns, ["a"] * 3000, np.arange(3000)))
    knows = Detector(Reference.of(columns, ["a"] * 3000, np.arange(3000), ["no" if not i else "yes" for i in ill]))
    codes = {name: n for n, name in enumerate(knows.reference.strata)}
    for _ in range(2):
        columns, ill = mixed(300, 0.6)
        strata = np.array([codes["yes"] if i else codes["no"] for i in ill])
        seen = blind.judge({"a": window(blind, "a", columns)})["a"]
        told = knows.judge({"a": window(knows, "a", columns, strata=strata)})["a"]
    assert seen.verdict == "drift"
    assert told.verdict == "no drift found"
    moved = {"f0": columns["f0"] + 0.6}
    for _ in range(2):
        told = knows.judge({"a": window(knows, "a", moved, strata=strata)})["a"]
    assert told.verdict == "drift"


def test_a_new_category_and_missing_values_are_named() -> None:
    rng, detector = np.random.default_rng(8), Detector(reference())
    changed = []
    for _ in range(2):
        columns = drawn(rng, 200)
        columns["kernel"] = np.where(rng.random(200) < 0.3, "B70", columns["kernel"]).astype(object)
        columns["f2"] = np.where(rng.random(200) < 0.3, np.nan, columns["f2"])
        changed.append({"a": columns})
    _, second = run(detector, *changed)
    said = {(c.feature, c.aspect): c for c in second["a"].alarm}
    assert said["kernel", "category"].value == "a value that the reference does not have"
    assert said["kernel", "category"].after == pytest.approx(0.3, abs=0.1)
    assert said["f2", "missing"].before == 0


def test_a_difference_too_small_to_matter_is_none_however_clear() -> None:
    rng, detector = np.random.default_rng(9), Detector(reference(n=20_000))
    _, second = run(detector, *({"a": drawn(rng, 20_000) | {"f0": rng.normal(0.08, 1, 20_000)}} for _ in range(2)))
    assert second["a"].verdict == "no drift found"


def test_nothing_happened_for_long_and_no_alarm_came() -> None:
    rng, detector = np.random.default_rng(10), Detector(reference())
    judged = run(detector, *({"a": drawn(rng, 60), "b": drawn(rng, 60)} for _ in range(60)))
    assert sum(bool(j.alarm) for one in judged for j in one.values()) == 0


def test_a_window_counted_for_another_reference_is_refused() -> None:
    with pytest.raises(DataError, match="another reference"):
        Detector(reference()).judge({"a": Sketch.empty(1, 3)})


def test_a_known_device_with_a_small_reference_is_not_judged_by_the_others() -> None:
    """Its own kernel would be news against all devices' for ever."""
    rng = np.random.default_rng(12)
    devices = ["many"] * 200 + ["few"] * 20
    kernel = np.array(["B30"] * 200 + ["B50"] * 20, dtype=object)
    reference = Reference.of({"x": rng.standard_normal(220), "kernel": kernel}, devices, list(range(220)))
    detector = Detector(reference)
    sketch = detector.sketch("few")
    part = {"x": rng.standard_normal(60), "kernel": np.array(["B50"] * 60, dtype=object)}
    sketch.add(reference.baseline("few")[0].places, part, hashes(range(60)))
    judged = detector.judge({"few": sketch})["few"]
    assert (judged.verdict, judged.status) == ("cannot judge", "known")
    assert judged.reason == "its own reference is too small (at least 30 samples)"
