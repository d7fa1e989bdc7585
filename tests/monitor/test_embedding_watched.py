"""The network's own view of the images is watched: noticed where nothing else has moved, told last where something has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core import package as packages
from components.core.embedding import Projection
from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.monitor import words
from components.monitor.watched import Watched
from tests.monitor.test_watch import MOVED, NAMES, SAME, answers, run, table, told
from tests.serving.small_package import build, lung_nodule

WIDTH = 6


def seen(n: int, seed: int, *, moved: float = 0.0) -> np.ndarray:
    """(n, WIDTH) embeddings of which two directions vary."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)) @ np.eye(2, WIDTH) * 2 + moved * np.eye(1, WIDTH) * 2


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The package of `test_watch`, with a projection learned from training samples, which the reference does not hold."""
    root = tmp_path_factory.mktemp("embedding")
    rows = table(NAMES, 0, 120)
    projection = Projection.fit(seen(500, 1))
    assert projection is not None
    plain = build(root / "plain", lung_nodule(), rows.assign(**projection.columns(list(seen(len(rows), 2)))), synthetic=True)
    files: dict[str, Path | bytes] = {name: plain.folder / name for name in plain.info["files"]}
    files["embedding.json"] = projection.to_json().encode()
    return packages.write(
        root / "package", files, disease=plain.disease, family=plain.info["family"], synthetic=True, verdict="pass", reasons=[]
    )  # fmt: skip


def embedded(package: ModelPackage, key: str, day: int, *, shift: float = 0.0, noise_sd: float = 0.0) -> Iterator[dict[str, Any]]:
    rows = list(answers(package, key, day, noise_sd=noise_sd))
    for row, vector in zip(rows, seen(len(rows), 100 + day + ord(key[0]), moved=shift), strict=True):
        yield row | {"embedding": [float(v) for v in vector]}


def months(package: ModelPackage, root: Path, **later: Any) -> dict[tuple[str, str], str]:
    with InferenceLog(root / "log") as log:
        for day in range(6):
            log.append([*embedded(package, SAME, day), *embedded(package, MOVED, day, **(later if day >= 2 else {}))])
    return told(run(package, root, 6.5))


def test_it_is_a_group_of_its_own(package: ModelPackage) -> None:
    watched = Watched.of(package)
    assert {name for name, group in watched.groups.items() if group == "embedding"} == {"embedding_1", "embedding_2"}


def test_images_that_only_the_network_finds_different(package: ModelPackage, tmp_path: Path) -> None:
    alarms = months(package, tmp_path, shift=1.0)
    assert alarms[("drift", MOVED)].startswith(words.LOOKS_ONLY)
    assert ("drift", SAME) not in alarms


def test_a_measured_change_is_told_first(package: ModelPackage, tmp_path: Path) -> None:
    said = months(package, tmp_path, shift=1.0, noise_sd=4.0)[("drift", MOVED)]
    assert said.startswith("noise +")
    assert words.LOOKS in said
    assert words.LOOKS_ONLY not in said


def test_nothing_moved_and_nothing_is_told(package: ModelPackage, tmp_path: Path) -> None:
    assert not [key for key in months(package, tmp_path) if key[0] == "drift"]


def test_a_server_that_logs_no_embedding_is_no_drift(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        for day in range(6):
            log.append([*answers(package, SAME, day), *answers(package, MOVED, day)])
    assert not [key for key in told(run(package, tmp_path, 6.5)) if key[0] == "drift"]


def test_a_package_without_a_projection_does_not_watch_it(tmp_path: Path) -> None:
    older = build(tmp_path / "p", lung_nodule(), table(NAMES, 0, 40).assign(embedding_1=0.5), synthetic=True)
    assert "embedding" not in Watched.of(older).groups.values()
