"""What is said, by the hundred thousand: places against direction cosines, intervals against scipy's, counts against simulated patients, and words of
devices against ingest's hash.

`python -m tests.soak.words [number] [seed]`; exits with 1 when a word or an end claims what its numbers do not.
"""

from __future__ import annotations

import json
import re
import sys
import time

import numpy as np
import pandas as pd
from scipy.stats import beta

from components.core import exact, wording
from components.core.imaging import laterality
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from components.core.spec import DiseaseSpec
from components.core.uncertainty import Uncertainty
from components.ingest.readers.image_csv import row_facts
from serving import handles
from serving.said import positive, said
from tests.serving.small_package import CATALOGUE, lung_nodule

ALONG = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
PLACE = re.compile(r"(\d+) mm (left|right|anterior|posterior|superior|inferior)")
SIGN = {"left": (0, 1), "right": (0, -1), "posterior": (1, 1), "anterior": (1, -1), "superior": (2, 1), "inferior": (2, -1)}


def places(number: int, rng: np.random.Generator) -> int:
    """Orientations and positions whose words are not those of the cosines and signs."""
    wrong = 0
    for _ in range(number):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        found = laterality.edges([*q[0], *q[1]]) or ("", "", "", "")
        for letters, vector in zip(found, (-q[0], q[0], -q[1], q[1]), strict=True):
            cosines = {letter: float(np.dot(vector, axis)) for letter, axis in ALONG.items()}
            wrong += letters[:1] != max(cosines, key=cosines.__getitem__)
        point, told = rng.normal(0, 200, 3), np.zeros(3)
        for mm, word in PLACE.findall(laterality.offset(point.tolist())):
            axis, sign = SIGN[word]
            told[axis] = sign * int(mm)
        wrong += not np.abs(told - point).max() <= 0.5
    return wrong


def intervals(number: int, rng: np.random.Generator) -> int:
    """Counts whose interval in words is narrower than the exact one, or does not hold its share."""
    wrong = 0
    for _ in range(number):
        n = int(np.exp(rng.uniform(0, 9)))
        k, groups = int(rng.integers(0, n + 1)), int(rng.integers(1, n + 1))
        low, high = beta.ppf(0.025, k, n - k + 1) if k else 0.0, beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
        ends = wording.outwards(*exact.interval(k, n, groups))
        wrong += not ends[0] <= low + 1e-9 <= k / n + 2e-9 <= high + 3e-9 <= ends[1] + 4e-9
    return wrong


def table(rng: np.random.Generator, patients: int, alike: float, slope: float) -> pd.DataFrame:
    """Samples of patients, three each, whose true logit is `slope` times what the model says; those of a patient share `alike` of their logit."""
    logit = rng.normal(0, 1.8, (patients, 1)) * np.sqrt(alike) + rng.normal(0, 1.8, (patients, 3)) * np.sqrt(1 - alike)
    y = rng.random(logit.shape) < 1 / (1 + np.exp(-slope * logit))
    p = (1 / (1 + np.exp(-logit))).ravel()
    group = np.repeat([f"g{n}" for n in range(patients)], 3)
    return pd.DataFrame({"label": y.ravel().astype(int), "score_benign": 1 - p, "score_malignant": p, "split": "test", "group_id": group})


def evidence(number: int, rng: np.random.Generator, slope: float) -> dict[str, float]:
    """Shares of fresh answers: nothing said; the model contradicted; the true share of the counted neighbourhood within the interval."""
    spec, said_nothing, contradicted, held, asked = lung_nodule(), 0, 0, 0, 0
    wrong = 0
    for _ in range(max(1, number // 400)):
        known = Uncertainty.learn(spec, table(rng, int(rng.integers(8, 400)), rng.uniform(0.1, 1), slope))
        fresh = 1 / (1 + np.exp(-rng.normal(0, 1.8, 40)))
        for p, sure in zip(fresh, known.describe(np.stack([1 - fresh, fresh], 1)), strict=True):
            asked += 1
            lines = said(
                {"abstain": False, "probabilities": {"benign": 1 - p, "malignant": p}, "decision": "malignant", "positive": positive(spec),
                 "operating_point": {"kind": "highest"}, "uncertainty": sure, "reasons": []}
            ).lines  # fmt: skip
            wrong += bool(re.search(r"malignant: (100|0) %", lines[0]))
            seen = sure["observed"]
            if seen is None:
                said_nothing += 1
                continue
            contradicted += "by what was observed" in lines[0]
            inside = np.linspace(max(seen["from"], 1e-3), min(seen["to"], 1 - 1e-3), 101)
            weight = np.exp(-(np.log(inside / (1 - inside)) ** 2) / (2 * 1.8**2)) / (inside * (1 - inside))
            truth = np.average(1 / (1 + (1 / inside - 1) ** slope), weights=weight)
            held += seen["low"] - 5e-4 <= truth <= seen["high"] + 5e-4
    told = max(1, asked - said_nothing)
    shares = {"asked": asked, "nothing said": said_nothing / asked, "contradicted": contradicted / told, "held": held / told, "certain": wrong}
    return {name: round(float(value), 4) for name, value in shares.items()}


def devices(number: int, rng: np.random.Generator) -> int:
    """Words that are another device than ingest's, or that an error repeats."""
    key, spec, wrong = Pseudonymiser(b"a key of the soak only"), DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml"), 0
    for _ in range(number):
        word = "".join(map(chr, rng.choice([*range(32, 127), *range(160, 400), 0x4E2D, 0x1F4F7, 9, 10, 0x2028], int(rng.integers(1, 30)))))
        try:
            _, told = handles.of_fields({"device": word, "patient": word}, "instances[0]", key)
        except handles.DataError as error:
            wrong += len(word.strip()) > 3 and word.strip() in str(error)
            continue
        kept = row_facts(spec, {"device": word.strip(), "patient": word.strip()}, key)
        wrong += (told.device or UNKNOWN_DEVICE, told.patient) != (kept["device_key"], kept["patient_id"])
    return wrong


def main() -> int:
    number, seed = (int(text) for text in (sys.argv[1:] + ["100000", "0"][len(sys.argv) - 1 :]))
    rng, began = np.random.default_rng(seed), time.monotonic()
    figures = {
        "places": places(number, rng), "intervals": intervals(number, rng), "devices": devices(number // 2, rng),
        "calibrated": evidence(number, rng, 1.0), "overconfident (slope .5)": evidence(number, rng, 0.5),
    }  # fmt: skip
    print(json.dumps(figures | {"number": number, "seconds": round(time.monotonic() - began, 1)}))
    calibrated = figures["calibrated"]
    assert isinstance(calibrated, dict)
    bad = figures["places"] or figures["intervals"] or figures["devices"] or calibrated["certain"] or calibrated["held"] < 0.93
    return 1 if bad or calibrated["contradicted"] > 0.06 else 0


if __name__ == "__main__":
    raise SystemExit(main())
