"""Answers about whole slides are compared with those about slides, never with tiles; without such a reference nobody says "no drift"."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.inference_log import InferenceLog
from components.core.package import GROUPS, ModelPackage
from components.core.spec import DiseaseSpec
from components.monitor.step import drift
from components.monitor.watch import watch
from components.monitor.watched import NO_SLIDES
from tests.serving.small_bodies import TILES, disease
from tests.serving.small_package import build

ONE, OTHER = "a" * 16, "b" * 16
NAMES = {ONE: ("APERIO", "AT2"), OTHER: ("HAMAMATSU", "NANOZOOMER")}
FIGURES = ("mean", "sd", "p01", "p50", "p99", "noise_sd", "sharpness")
DAY = datetime(2026, 3, 2, tzinfo=UTC)
SPEC = DiseaseSpec.model_validate(disease(TILES).model_dump() | {"aggregate": {"method": "max"}})


def slide_scores(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and P(tumour) of slides: half of them high, unlike tiles."""
    label = rng.integers(0, 2, n)
    return label, np.clip(np.where(label, rng.beta(5, 2, n), rng.beta(2, 5, n)), 0.001, 0.999)


def tiles(slides: int, each: int, seed: int) -> pd.DataFrame:
    """The reference of tiles: nearly all of them are healthy."""
    rng, rows = np.random.default_rng(seed), []
    for key, (maker, model) in NAMES.items():
        for slide in range(slides):
            for n in range(each):
                p = float(rng.beta(1, 20))
                rows.append(
                    {"sample_id": f"{key}{slide}-{n}", "group_id": f"{key}{slide}", "device_key": key, "manufacturer": maker, "model": model,
                     "split": "test" if slide % 2 else "val", "label": int(p > 0.2), "abstain": False, "score_normal": 1 - p, "score_tumour": p}
                    | figures(rng)
                )  # fmt: skip
    return pd.DataFrame(rows)


def figures(rng: np.random.Generator) -> dict[str, float]:
    mean = rng.normal(150, 10)
    return {"mean": mean, "sd": rng.normal(40, 4), "p01": mean - 90, "p50": mean, "p99": mean + 80, "noise_sd": rng.normal(4, 0.4),
            "sharpness": rng.normal(0.4, 0.03)}  # fmt: skip


def groups(slides: int, seed: int) -> bytes:
    rng, parts = np.random.default_rng(seed), []
    for key, (maker, model) in NAMES.items():
        label, p = slide_scores(rng, slides)
        name = [f"{key}{n}" for n in range(slides)]
        parts.append(
            pd.DataFrame({"sample_id": name, "group_id": name, "device_key": key, "manufacturer": maker, "model": model,
                          "split": ["test" if n % 2 else "val" for n in range(slides)], "label": label, "abstain": False,
                          "score_normal": 1 - p, "score_tumour": p, "decision": np.where(p > 0.4, "tumour", "normal")})
        )  # fmt: skip
    out = io.BytesIO()
    pd.concat(parts, ignore_index=True).to_parquet(out, index=False)
    return out.getvalue()


def package(folder: Path, slides: int | None) -> ModelPackage:
    """A package whose reference has so many slides of each scanner; None: of the time before there was one."""
    return build(folder / f"package-{slides}", SPEC, tiles(60, 6, 0), more={} if slides is None else {GROUPS: groups(slides, 1)})


def answers(
    model: ModelPackage, key: str, n: int, seed: int, *, day: int = 0, slides: bool = True, score: float = 0.0, **moved: float
) -> Iterator[Any]:
    """Answers about n slides, or n tiles, as the reference has them but for what `score` (logits) and `moved` add."""
    rng = np.random.default_rng([seed, day])
    p = slide_scores(rng, n)[1] if slides else rng.beta(1, 20, n)
    p = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + score)))
    for i in range(n):
        image = figures(rng)
        yield {
            "time": (DAY + timedelta(days=day, minutes=5 * i)).isoformat(), "request_id": f"{key}-{seed}-{day}-{i}", "model": model.name,
            "status": "answered", "version": model.version, "digest": model.digest, "source": "slide" if slides else "array", "device_key": key,
            "manufacturer": NAMES[key][0], "device_model": NAMES[key][1], "scores": {"normal": 1 - p[i], "tumour": p[i]}, "decision": "normal",
            "abstain": False, "reasons": [], "latency_ms": 4.0, "image": {name: v + moved.get(name, 0.0) for name, v in image.items()},
            "acquisition": {},
        }  # fmt: skip


def looked(model: ModelPackage, root: Path, *parts: Iterator[Any]) -> dict[str, Any]:
    with InferenceLog(root / "log") as log:
        log.append([record for part in parts for record in part])
    return drift(package=model.folder, log=root / "log", out=root / "out")["devices"]


def test_slides_that_are_as_they_were_are_no_drift(tmp_path: Path) -> None:
    """Their scores are far from those of tiles: compared with these, every slide would be an alarm."""
    model = package(tmp_path, 80)
    found = looked(model, tmp_path, answers(model, ONE, 60, 1), answers(model, OTHER, 60, 2))
    assert {key: (one["verdict"], one["reason"]) for key, one in found.items()} == {ONE: ("no drift found", ""), OTHER: ("no drift found", "")}
    assert "slide_score_tumour" in found[ONE]["changes"]
    assert "score_tumour" not in found[ONE]["changes"]


def test_slides_whose_scores_moved_are_drift_and_said_to_be_of_slides(tmp_path: Path) -> None:
    model = package(tmp_path, 80)
    found = looked(model, tmp_path, answers(model, ONE, 60, 1, score=1.5), answers(model, OTHER, 60, 2))
    assert (found[ONE]["verdict"], found[OTHER]["verdict"]) == ("drift", "no drift found")
    assert found[ONE]["words"].startswith("probability of tumour in whole slides higher")
    assert (tmp_path / "out" / "drift.html").read_text().count("probability of tumour in whole slides") >= 1
    assert (tmp_path / "out" / "evidently.html").exists()


@pytest.mark.parametrize("slides", [None, 20])
def test_without_enough_slides_in_the_reference_nobody_says_no_drift(tmp_path: Path, slides: int | None) -> None:
    model = package(tmp_path, slides)
    found = looked(model, tmp_path, answers(model, ONE, 60, 1), answers(model, OTHER, 60, 2, noise_sd=2.0))
    says = NO_SLIDES if slides is None else "scores of whole slides were not compared: 60 here (at least 25), 20 in its reference (at least 30)"
    assert (found[ONE]["verdict"], found[ONE]["reason"]) == ("cannot judge", says)
    assert found[OTHER]["verdict"] == "drift"  # of its pixels, which were compared
    assert found[OTHER]["words"].startswith("noise +")
    assert found[OTHER]["words"].endswith(says)
    page = (tmp_path / "out" / "drift.html").read_text()
    assert f"cannot judge: {says}" in page


def test_tiles_are_still_compared_with_tiles(tmp_path: Path) -> None:
    model = package(tmp_path, 80)
    both = answers(model, ONE, 60, 1), answers(model, ONE, 60, 3, slides=False)
    found = looked(model, tmp_path, *both, answers(model, OTHER, 60, 4, slides=False, score=2.0))
    assert {"score_tumour", "slide_score_tumour"} <= set(found[ONE]["changes"])
    assert (found[ONE]["verdict"], found[OTHER]["verdict"]) == ("no drift found", "drift")
    assert "probability of tumour higher" in found[OTHER]["words"]


def test_a_few_slides_among_many_tiles_are_not_judged_and_that_is_told_where_they_matter(tmp_path: Path) -> None:
    model = package(tmp_path, 80)
    many = answers(model, ONE, 60, 3, slides=False), answers(model, OTHER, 100, 4, slides=False)
    found = looked(model, tmp_path, *many, answers(model, ONE, 8, 5, score=3.0), answers(model, OTHER, 2, 6))
    assert found[ONE]["verdict"] == "cannot judge"
    assert found[ONE]["reason"].startswith("scores of whole slides were not compared: 8 here")
    assert found[OTHER]["verdict"] == "no drift found"


def test_the_scheduled_monitor_says_the_same_and_expects_an_auc_of_slides(tmp_path: Path) -> None:
    """Three days; one scanner's slides score higher from the second on. An old package: no verdict, no figure."""
    history = {}
    for slides in (80, None):
        model, root = package(tmp_path, slides), tmp_path / f"run-{slides}"
        with InferenceLog(root / "log") as log:
            for day in range(4):
                log.append([*answers(model, ONE, 60, 1, day=day), *answers(model, OTHER, 60, 2, day=day, score=1.5 if day else 0.0)])
        summary = watch(package=model.folder, log=root / "log", state=root / "state", now=DAY + timedelta(days=4, hours=2))
        history[slides] = pd.read_parquet(root / "state" / TILES / "history.parquet")
        alarms = [(a["kind"], a["device_key"]) for a in summary["open_alarms"]]
        assert alarms == ([("drift", OTHER)] if slides else [])
    new, old = history[80], history[None]
    assert new[new["device_key"] == ONE]["verdict"].tolist() == ["no drift found"] * 4
    assert new[new["device_key"] == OTHER]["verdict"].tolist()[2:] == ["drift", "drift"]
    one = new[new["device_key"] == ONE]
    assert one["score_mean"].between(0.4, 0.6).all()
    assert one["auc_estimated"].between(0.85, 1).all()
    assert set(old["verdict"]) == {"cannot judge"}
    assert set(old["reason"]) == {NO_SLIDES}
    assert old[["auc_estimated", "score_mean"]].isna().all(axis=None)


def test_labels_of_slides_do_not_explain_by_the_mix_of_tiles(tmp_path: Path) -> None:
    from components.monitor.explained import by_labels
    from components.monitor.watched import Watched

    model = package(tmp_path, 80)
    assert by_labels(Watched.of(model), tmp_path / "log", {}, {}, {"x": "tumour"}) == {}
