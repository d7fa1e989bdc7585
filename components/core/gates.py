"""The verdict on a model: `pass`, `fail` or `insufficient evidence`, each with its reasons.

A bound is on the end of the interval that speaks against the model. An interval wholly on the wrong side is a fail; one that contains the
bound has not shown anything. Register refuses by this verdict and the report prints it, so it stands below both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from components.core.metrics import MIN_GROUPS
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec

LEAKS = ("groups_apart", "patients_apart", "copies_across", "siblings_across")
"""Checks of validate that, not held, mean that training knows something of a test sample. `near_copies` fails the data where images have
detail enough to tell copies from look-alikes; where they have not, it only asks for a second look."""
CHANCE = 0.5
"""The AUC of one answer for all. A bound of it, or below, asks that something was seen at all."""
Verdict = Literal["pass", "fail", "insufficient evidence"]


@dataclass(frozen=True)
class Gate:
    """One condition. `verdict` is its own; `reason` is what a reader is told."""

    name: str
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    gates: tuple[Gate, ...]

    @property
    def reasons(self) -> list[str]:
        """Of the gates that did not pass, the failed ones first."""
        return [g.reason for v in ("fail", "insufficient evidence") for g in self.gates if g.verdict == v]


def judge(spec: DiseaseSpec, figures: dict[str, Any], *, validation: str) -> Judgement:
    """Hold an evaluation against the gates of its spec.

    Args:
        figures: `metrics`, `devices`, `counts` as in `metrics.json`; `leakage` and `folds` where it has them.
        validation: The data's verdict: `pass`, `warn`, `fail`, or `broken check`.
    """
    bounds, found = spec.gates, figures["metrics"]
    gates = [_data(validation), _separation(spec, figures)]
    n, fewest = figures["counts"]["answered"], min(figures["counts"]["classes"].items(), key=lambda pair: pair[1])
    enough = n >= bounds.min_n and fewest[1] >= bounds.min_per_class
    wanted = f"{bounds.min_n} test samples and {bounds.min_per_class} of each class"
    gates.append(Gate("size", "pass" if enough else "insufficient evidence", f"{n} test samples, {fewest[1]} of '{fewest[0]}'; needed: {wanted}"))
    gates.append(_at_least("auc", "AUC", found["auc"], bounds.auc_low))
    gates += _devices(spec, figures["devices"])
    if "calibration_error" in found:
        gates.append(_at_most("calibration_error", "calibration error", found["calibration_error"], bounds.calibration_error))
    verdicts = {g.verdict for g in gates}
    verdict: Verdict = "fail" if "fail" in verdicts else "insufficient evidence" if "insufficient evidence" in verdicts else "pass"
    return Judgement(verdict, tuple(gates))


def _data(validation: str) -> Gate:
    if validation in ("pass", "warn"):
        return Gate("data", "pass", f"data validation: {validation}")
    return Gate("data", "fail" if validation == "fail" else "insufficient evidence", f"data validation: {validation}")


def _separation(spec: DiseaseSpec, figures: dict[str, Any]) -> Gate:
    found = "; ".join(f"not held: {one['says']} ({one['seen']})" for one in figures.get("leakage", []) if one["id"] in LEAKS)
    if spec.split.grouping == "none":
        return Gate("separation", "insufficient evidence", "no patient ids: training and test may share patients" + (f"; {found}" if found else ""))
    if found:
        return Gate("separation", "insufficient evidence", found)
    return Gate("separation", "pass", f"no {spec.split.grouping} is in two {'folds' if 'folds' in figures else 'splits'}")


def _devices(spec: DiseaseSpec, devices: dict[str, Any]) -> list[Gate]:
    """One gate for each device that can be judged; the others carry no claim, and one that can must exist."""
    judged = {key: facts for key, facts in devices.items() if facts["auc"]["value"] is not None and key != UNKNOWN_DEVICE}
    if not judged:
        few = "" if spec.split.grouping == "none" else f" from at least {MIN_GROUPS} {spec.split.grouping}s each"
        enough = f"no device has {spec.device.min_n} samples and both classes{few}"
        why = "the device of no sample is known" if set(devices) <= {UNKNOWN_DEVICE} else enough
        return [Gate("device", "insufficient evidence", f"no figure by device: {why}")]
    return [_at_least(f"device {key}", f"AUC on {facts['name']}", facts["auc"], spec.gates.device_auc_low) for key, facts in sorted(judged.items())]


def _at_least(name: str, title: str, estimate: dict[str, Any], bound: float) -> Gate:
    if estimate["value"] is None:
        return Gate(name, "insufficient evidence", f"{title}: {estimate.get('reason', 'no figure')}")
    low, high = estimate["low"], estimate["high"]
    if bound <= CHANCE:
        verdict: Verdict = "pass" if low > CHANCE else "fail" if high <= CHANCE else "insufficient evidence"
        return Gate(name, verdict, f"{title} {_text(estimate)}; needed: lower end above {CHANCE:g}")
    verdict = "pass" if low >= bound else "fail" if high < bound else "insufficient evidence"
    return Gate(name, verdict, f"{title} {_text(estimate)}; needed: lower end at least {bound:g}")


def _at_most(name: str, title: str, estimate: dict[str, Any], bound: float) -> Gate:
    if estimate["value"] is None:
        return Gate(name, "insufficient evidence", f"{title}: {estimate.get('reason', 'no figure')}")
    verdict: Verdict = "pass" if estimate["high"] <= bound else "fail" if estimate["low"] > bound else "insufficient evidence"
    return Gate(name, verdict, f"{title} {_text(estimate)}; needed: upper end at most {bound:g}")


def _text(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f}, n={estimate['n']})"
