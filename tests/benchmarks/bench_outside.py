"""Images of something else: how many get no decision, and how many of the model's own kind lose theirs by the same check.

Each disease of the catalogue that has a phantom is trained on it by `dxflow run`, at the spec's own size, for at most `EPOCHS` passes: this check's
figures do not depend on the network, whose training counts only where the answers to spoilt images are compared. The package answers, by
`serving/predictor.py`, what no training saw: images of the other diseases brought to its format, noise and single colours; new people at its own
devices and at one that it never met; and its own images spoilt in five ways at five strengths. A table has no phantom: breast-cytology's measure is
learned from four fifths of its rows. The measure's strengths were chosen on people of the same unseen devices (decision 0230). Counted are
refusals by this check alone. DXFLOW_BENCH_HOME names a folder where phantoms, samples and the runs' cache are kept: a second time what neither code
nor spec changed is not trained again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import code
from components.core.outside import LOW_QUALITY, OUTSIDE
from components.core.spec import DiseaseSpec
from pipelines.sources import code_digest
from serving.predictor import Predictor, Query
from tests.benchmarks import foreign

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "pipelines" / "diseases"
EPOCHS = 16
N, SOME = 300, 100  # own and unseen images; images of each other disease
PEOPLE = {
    "parkinson-fog": 60, "breast-metastasis": 24, "alzheimer-smri": 300, "skin-lesion": 230, "lung-nodule": 160, "retinopathy-screening": 160,
    "retinopathy-grading": 160,
}  # fmt: skip
"""That give 300 samples or more. Windows of one person are refused together or not at all, so there are many persons and few windows of each."""
REFUSED, KEPT, CHANGE = 0.95, 0.05, 0.05
LEAST = 10  # of a class among those answered, for a figure to be compared
CYTOLOGY = "package:sklearn/datasets/data/breast_cancer.csv"


@dataclass
class Asked:
    """Samples of one collection.

    Args:
        x: (n, *input.shape). positive: (n,) of 0 and 1. device: (n,) keys. groups: Persons, or slides.
    """

    x: NDArray[Any]
    positive: NDArray[np.int64]
    device: NDArray[np.object_]
    groups: int

    @property
    def n(self) -> str:
        return f"n = {len(self.x)} of {self.groups}"


def run() -> list[dict[str, Any]]:
    kept = os.environ.get("DXFLOW_BENCH_HOME")
    with tempfile.TemporaryDirectory() as made:
        home = Path(kept or made).resolve()
        os.environ["DXFLOW_HOME"] = str(home)
        specs = {path.stem: DiseaseSpec.from_toml(path) for path in sorted(CATALOGUE.glob("*.toml"))}
        specs = {name: spec for name, spec in specs.items() if spec.phantom is not None}
        own = {name: _collection(home, spec, unseen=False) for name, spec in specs.items()}
        rows: list[dict[str, Any]] = []
        for name in specs:
            began = time.monotonic()
            predictor, unseen = _predictor(home, name), _collection(home, specs[name], unseen=True)
            trained = time.monotonic()
            rows += measured(name, specs, own, unseen, predictor)
            print(f"  {name}: package {trained - began:.0f} s, asked {time.monotonic() - trained:.0f} s", flush=True)
        return rows + table(home)


def measured(name: str, specs: dict[str, DiseaseSpec], own: dict[str, Asked], unseen: Asked, predictor: Predictor) -> list[dict[str, Any]]:
    spec, rng, rows = specs[name], np.random.default_rng(20), []
    others: dict[str, float] = {}
    for other, asked in own.items():
        if _anatomy(other) != _anatomy(name):
            others[other] = float(np.mean(_refused(predictor, foreign.brought(_some(asked), specs[other], spec))))
    worst = min(others, key=lambda o: others[o])
    rows.append(
        _row(
            f"{name}: images of other diseases refused (n = {SOME} of each; fewest: {worst}, {100 * others[worst]:.0f} %)",
            float(np.mean([*others.values()])),
            True,
        )
    )
    for kind in foreign.NOISE:
        rows.append(_row(f"{name}: {kind} refused (n = {SOME})", float(np.mean(_refused(predictor, foreign.noise(kind, SOME, spec, rng)))), True))
    clean = own[name]
    answered = _answers(predictor, clean.x, clean.device)
    rows.append(_row(f"{name}: own images refused, of new people ({clean.n})", float(np.mean([_by_check(a) for a in answered])), False))
    seen = _answers(predictor, unseen.x, unseen.device)
    rows.append(_row(f"{name}: images of an unseen device refused ({unseen.n})", float(np.mean([_by_check(a) for a in seen])), False))
    for how in foreign.SPOILT:
        holds, told = 0, []
        for strength in range(foreign.STRENGTHS):
            after = _answers(predictor, foreign.spoilt(how, clean.x, strength, spec), clean.device)
            right, words = _harmless(spec, clean.positive, answered, after)
            holds += right
            told += [] if right else [f"{strength + 1}: {words}"]
        note = f"; not at {'; '.join(told)}" if told else ""
        name_of = f"{name}: {how} ({clean.n}), strengths at which 95 % are refused or the answers hold{note}"
        row = {"name": name_of, "value": float(holds), "unit": "of 5"}
        rows.append(row | {"bound": ">= 5", "holds": holds == foreign.STRENGTHS})
    return rows


def table(home: Path) -> list[dict[str, Any]]:
    """breast-cytology: measures of four fifths of the rows, asked about the last fifth and about rows that no patient has."""
    from components.core import outside
    from components.core.dataset import Dataset
    from components.ingest.step import ingest
    from components.register import outside_measure

    spec = DiseaseSpec.from_toml(CATALOGUE / "breast-cytology.toml")
    folder = _asked(home, spec.name)
    if not (folder / "dataset").exists():
        with redirect_stdout(StringIO()):
            ingest(spec, CYTOLOGY, dataset=folder / "dataset", features=folder / "features", workers=1)
    data, rng = Dataset(folder / "dataset", expect=spec), np.random.default_rng(21)
    x = data.read(np.arange(len(data.manifest)))
    part = rng.permutation(len(x)) % 5
    counts: dict[str, list[bool]] = {"own rows refused, left out in turn (n = 569)": [], "rows with columns in another order refused": []}
    counts |= {"rows evenly over the spec's range refused": [], "rows of one number refused": []}
    for k in range(5):
        some = _Part(data, np.flatnonzero(part != k))
        measure = outside_measure.learn(spec, some)  # type: ignore[arg-type]
        assert measure is not None
        held = x[part == k]
        low, high = spec.input.range
        even, one = rng.uniform(low, high, held.shape), np.repeat(rng.uniform(0, 100, (len(held), 1)), held.shape[1], axis=1)
        asked = (held, rng.permuted(held, axis=1), even, one)
        for name, values in zip(counts, asked, strict=True):
            counts[name] += (measure.distance(outside.vector(values, {}, spec)[1]) > measure.limit).tolist()
    return [_row(f"{spec.name}: {name}", float(np.mean(found)), not name.startswith("own")) for name, found in counts.items()]


class _Part:
    """Some rows of a dataset."""

    def __init__(self, data: Any, rows: NDArray[np.int64]) -> None:
        self._data, self._rows, self.manifest = data, rows, data.manifest.iloc[rows]

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._data.read(self._rows[rows])


def _some(asked: Asked) -> NDArray[Any]:
    """Evenly over the collection: the first samples may be of few people."""
    return asked.x[np.linspace(0, len(asked.x) - 1, SOME).astype(np.int64)]


def _anatomy(disease: str) -> str:
    return disease.partition("-")[0]


def _collection(home: Path, spec: DiseaseSpec, *, unseen: bool) -> Asked:
    """About `N` samples of people whom no training saw."""
    from components.core.dataset import Dataset
    from components.ingest.step import ingest

    assert spec.phantom is not None
    source = _source(home, spec, patients=PEOPLE[spec.name], seed=spec.phantom.seed + 7, unseen=unseen)
    folder = _asked(home, f"{spec.name}-{source.name}")
    if not (folder / "dataset").exists():
        with redirect_stdout(StringIO()):
            ingest(spec, str(source), dataset=folder / "dataset", features=folder / "features", workers=2)
    data = Dataset(folder / "dataset", expect=spec)
    rows = np.flatnonzero(~data.manifest["split"].astype(str).str.startswith(("external", "pretrain")))
    rows = np.sort(np.random.default_rng(19).permutation(rows)[:N])
    manifest = data.manifest.iloc[rows]
    positive = np.isin(manifest["label"].to_numpy(np.int64), spec.positive_indices).astype(np.int64)
    return Asked(data.read(rows), positive, manifest["device_key"].to_numpy(object), manifest["group_id"].nunique())


def _source(home: Path, spec: DiseaseSpec, **more: Any) -> Path:
    """The phantom of a disease as `dxflow phantom` makes it, or with `more` in place of the spec's; kept as long as no generator changes."""
    from components.core.phantoms import generator

    assert spec.phantom is not None
    given = {"patients": spec.phantom.patients, "seed": spec.phantom.seed} | more
    named = "-".join([spec.phantom.generator, *(f"{name}-{value}" for name, value in given.items())])
    folder = home / "sources" / code.digest(ROOT, ["components/core/phantoms"])[:12] / named
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part, redirect_stdout(StringIO()):
            generator(spec.phantom.generator)(Path(part) / "made", **given)
            (Path(part) / "made").rename(folder)
    return folder


def _asked(home: Path, name: str) -> Path:
    """Of what this code ingests: samples that other code made are not taken for its own."""
    return home / "asked" / code_digest("ingest") / name


def _predictor(home: Path, disease: str) -> Predictor:
    """Of the package that `dxflow run` makes."""
    from components.core.package import ModelPackage
    from feature_store.store import OnlineProfiles, online_place

    source, spec = _source(home, DiseaseSpec.from_toml(CATALOGUE / f"{disease}.toml")), home / f"{disease}.toml"
    text = (CATALOGUE / f"{disease}.toml").read_text(encoding="utf-8")
    spec.write_text(re.sub(r"(?m)^epochs = (\d+)", lambda found: f"epochs = {min(int(found[1]), EPOCHS)}", text), encoding="utf-8")
    made = json.loads(_command("run", str(spec), "--source", str(source), "--json").splitlines()[-1])
    package = ModelPackage.open(Path(made["package"]), allow_synthetic=True)
    profiles = OnlineProfiles(online_place(package.name)) if package.spec.normalise.method == "device" else None
    return Predictor(package, profiles)


def _command(*words: str) -> str:
    """What `dxflow` says. Raises RuntimeError with the end of what it said instead."""
    done = subprocess.run([sys.executable, "-m", "pipelines", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"dxflow {words[0]} {words[1]}: {done.stderr[-1000:]}")
    return done.stdout


def _answers(predictor: Predictor, x: NDArray[Any], device: Sequence[str] | NDArray[np.object_]) -> list[dict[str, Any]]:
    queries = [Query(array=one, device_key=str(key)) for one, key in zip(x, device, strict=True)]
    return [answer for start in range(0, len(queries), 100) for answer in predictor.answer(queries[start : start + 100])]


def _refused(predictor: Predictor, x: NDArray[Any]) -> list[bool]:
    """By this check, or for having no content."""
    return [_by_check(a) or "image without content" in a["reasons"] for a in _answers(predictor, x, ["unknown"] * len(x))]


def _by_check(answer: dict[str, Any]) -> bool:
    return any(reason.startswith((OUTSIDE, LOW_QUALITY)) for reason in answer["reasons"])


def _harmless(
    spec: DiseaseSpec, positive: NDArray[np.int64], before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> tuple[bool, str]:  # fmt: skip
    """Whether enough were refused, or AUC and sensitivity of those answered are about what they were on the same samples; and the figures."""
    refused = float(np.mean([_by_check(a) for a in after]))
    both = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a["probabilities"] and b["probabilities"]]
    y = positive[both]
    if refused >= REFUSED:
        return True, ""
    if min((y == 1).sum(), (y == 0).sum()) < LEAST:
        return False, f"{100 * refused:.0f} % refused, too few answers to compare"
    was, now = ([_score(spec, answers[n]) for n in both] for answers in (before, after))
    hit, still = (np.mean([_positive(spec, answers[n]) for n, one in zip(both, y, strict=True) if one == 1]) for answers in (before, after))
    auc = _auc(y, was), _auc(y, now)
    right = auc[0] - auc[1] <= CHANGE and float(hit - still) <= CHANGE
    return right, f"{100 * refused:.0f} % refused, AUC {auc[0]:.2f} to {auc[1]:.2f}, sensitivity {hit:.2f} to {still:.2f}"


def _score(spec: DiseaseSpec, answer: dict[str, Any]) -> float:
    return sum(answer["probabilities"][spec.target.classes[k]] for k in spec.positive_indices)


def _positive(spec: DiseaseSpec, answer: dict[str, Any]) -> bool:
    wanted = {spec.target.positive, *(spec.target.classes[k] for k in spec.positive_indices)}
    return bool(wanted & set(str(answer["decision"]).split("+")))


def _auc(y: NDArray[np.int64], score: list[float]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, score))


def _row(name: str, share: float, refuse: bool) -> dict[str, Any]:
    bound, holds = (f">= {100 * REFUSED:g}", share >= REFUSED) if refuse else (f"<= {100 * KEPT:g}", share <= KEPT)
    return {"name": name, "value": 100 * share, "unit": "%", "bound": bound, "holds": bool(holds)}
