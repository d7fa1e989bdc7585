"""The two-sample tests against known values and in simulation: quiet under the null, awake under a shift, honest about few samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from components.monitor.tests_by_device import LEVEL, benjamini_hochberg, by_device, holm, ks_distance, ks_p

FEATURES = ["a", "b", "c", "d"]
DEVICES = "pqrs"


def frame(
    rng: np.random.Generator, n: int, devices: str = DEVICES, *, per_patient: int = 1, shared: float = 0.0, shift: dict[str, float] | None = None
) -> pd.DataFrame:
    """n samples of each device; `shared` is the share of the variance that samples of one patient have in common; `shift` moves feature a."""
    parts = []
    for key in devices:
        patients = np.repeat(np.arange(n // per_patient), per_patient)
        common = rng.normal(size=(n // per_patient, len(FEATURES)))[patients]
        values = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=(len(patients), len(FEATURES)))
        part = pd.DataFrame(values, columns=FEATURES).assign(device_key=key, group=[f"{key}{p}" for p in patients])
        part["a"] += (shift or {}).get(key, 0.0)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_ks_distance_of_two_small_samples_is_the_one_on_paper() -> None:
    """F_a steps at 1, 2, 3, 4 by 1/4; F_b at 3, 4, 5 by 1/3: the largest gap is 1/2, at 2."""
    assert ks_distance([1, 2, 3, 4], [3, 4, 5]) == pytest.approx(0.5)
    assert ks_distance([1, 2], [1, 2]) == 0
    assert ks_distance([0, 0], [1, 1]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_without_repeated_patients_distance_and_p_are_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=80).round(1), rng.normal(0.4, size=50).round(1)
    known = ks_2samp(a, b)
    assert ks_distance(a, b) == pytest.approx(known.statistic)
    assert ks_p(a, b) == pytest.approx(known.pvalue)
    assert ks_p(a, b, [f"x{i}" for i in range(80)], [f"y{i}" for i in range(50)]) == pytest.approx(known.pvalue)


def test_permuting_patients_of_one_sample_each_and_one_of_two_agrees_with_theory() -> None:
    """One repeated patient forces permutation; with 200 others the p must be near the exact one."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=121), rng.normal(0.35, size=80)
    assert ks_p(a, b, [0, *range(120)], range(80), resamples=4999) == pytest.approx(ks_2samp(a, b).pvalue, abs=0.02)


def test_benjamini_hochberg_of_the_textbook() -> None:
    """Five p-values, adjusted by hand: p * 5 / rank, then the running minimum from the largest down."""
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])
    assert list(benjamini_hochberg([1.0])) == [1.0]


def test_holm_of_the_textbook() -> None:
    """0.01 * 3, 0.02 * 2, 0.04 * 1, never below the one before."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def false_alarms(windows: int, *, changed: str = "", **options: float) -> int:
    """Windows with an alarm on a device that did not change."""
    count = 0
    for seed in range(windows):
        rng = np.random.default_rng([seed, 7])
        reference, current = frame(rng, 120, **options), frame(rng, 60, **options)  # type: ignore[arg-type]
        current.loc[current["device_key"].isin(list(changed)), FEATURES] += 3
        found = by_device(reference, current, FEATURES, min_n=30)
        count += any(f.verdict == "drift" for key, f in found.items() if key not in changed)
        assert all(found[key].verdict == "drift" for key in changed)
    return count


def test_nothing_changed_raises_a_false_alarm_in_at_most_the_declared_share_of_windows() -> None:
    """60 windows of 4 devices and 4 features: at a level of .05, more than 9 has a probability of .001 (binomial)."""
    assert false_alarms(60) <= 9


def test_devices_that_did_change_do_not_raise_the_false_alarms_on_those_that_did_not() -> None:
    """30 windows with every feature of 3 in 4 devices changed: at .05, more than 6 has a probability under .001."""
    assert false_alarms(30, changed="pqr") <= 6


def test_samples_of_one_patient_do_not_raise_the_false_alarms() -> None:
    """24 windows, 4 samples a patient that share 80 % of their variance: more than 5 has a probability of .001."""
    assert false_alarms(24, per_patient=4, shared=0.8) <= 5


def test_taking_such_samples_as_independent_would_raise_them() -> None:
    """What the permutation is for: the plain test calls most of these null comparisons a change."""
    rng = np.random.default_rng(0)
    plain = clustered = 0
    for _ in range(40):
        a, b = (frame(rng, n, "p", per_patient=4, shared=0.8) for n in (120, 60))
        plain += ks_p(a["a"], b["a"]) <= LEVEL
        clustered += ks_p(a["a"], b["a"], a["group"].tolist(), b["group"].tolist(), resamples=199) <= LEVEL
    assert plain >= 10
    assert clustered <= 7


def test_a_shifted_device_is_named_and_the_others_are_not() -> None:
    rng = np.random.default_rng(1)
    found = by_device(frame(rng, 300), frame(rng, 150, shift={"r": 0.8}), FEATURES, min_n=30)
    assert {key for key, f in found.items() if f.verdict == "drift"} == {"r"}
    assert max(found["r"].changes, key=lambda name: found["r"].changes[name].ks) == "a"
    assert found["r"].changes["a"].shift == pytest.approx(0.8, abs=0.3)
    assert found["p"].verdict == "no drift found (n=150)"


def test_an_unseen_device_is_compared_with_the_pool_and_listed_first() -> None:
    rng = np.random.default_rng(2)
    found = by_device(frame(rng, 300), frame(rng, 100, "pz", shift={"z": 1.5}), FEATURES, min_n=30)
    assert next(iter(found)) == "z"
    assert (found["z"].status, found["z"].compared_with, found["z"].n_reference) == ("unseen", "the pooled reference", 1200)
    assert found["z"].verdict == "drift"


def test_an_unseen_device_changes_no_verdict_of_a_known_one() -> None:
    """Whatever an unseen device shows, the known ones are judged as if it were not there."""
    rng = np.random.default_rng(3)
    alone = by_device(ref := frame(rng, 300), cur := frame(rng, 100), FEATURES, min_n=30)
    beside = by_device(ref, pd.concat([cur, frame(rng, 100, "z", shift={"z": 5})]), FEATURES, min_n=30)
    assert {k: f.changes for k, f in alone.items()} == {k: f.changes for k, f in beside.items() if k != "z"}


@pytest.mark.parametrize(
    ("n_reference", "n", "per_patient", "verdict"),
    [
        (100, 29, 1, "too few to judge (n=29)"),
        (29, 100, 1, "too few to judge (reference n=29)"),
        (100, 40, 10, "too few to judge (n=40 from 4 patients)"),
        (100, 30, 1, "no drift found (n=30)"),
    ],
)
def test_too_few_is_said_and_never_called_no_drift(n_reference: int, n: int, per_patient: int, verdict: str) -> None:
    rng = np.random.default_rng(4)
    found = by_device(frame(rng, n_reference, "p"), frame(rng, n, "p", per_patient=per_patient), FEATURES, min_n=30)
    assert found["p"].verdict == verdict


def test_missing_values_are_left_out_and_count_towards_too_few() -> None:
    rng = np.random.default_rng(5)
    reference, current = frame(rng, 100, "p"), frame(rng, 60, "p")
    current.loc[:39, "b"] = np.nan
    found = by_device(reference, current, FEATURES, min_n=30)
    assert set(found["p"].changes) == {"a", "c", "d"}


def test_a_trivial_difference_in_many_samples_is_no_alarm() -> None:
    rng = np.random.default_rng(6)
    found = by_device(frame(rng, 6000, "p"), frame(rng, 6000, "p", shift={"p": 0.1}), FEATURES, min_n=30)
    change = found["p"].changes["a"]
    assert change.adjusted < 0.01
    assert not change.alarm


def test_a_device_without_requests_is_silent_and_an_empty_window_silences_all() -> None:
    rng = np.random.default_rng(7)
    reference = frame(rng, 50)
    assert by_device(reference, frame(rng, 50, "pq"), FEATURES, min_n=30)["s"].verdict == "silent"
    assert {f.status for f in by_device(reference, reference[:0], FEATURES, min_n=30).values()} == {"silent"}


def test_the_same_input_gives_the_same_p() -> None:
    rng = np.random.default_rng(8)
    a, b = frame(rng, 60, "p", per_patient=3, shared=0.5), frame(rng, 60, "p", per_patient=3, shared=0.5)
    first, second = (by_device(a, b, FEATURES, min_n=30)["p"].changes for _ in range(2))
    assert first == second
