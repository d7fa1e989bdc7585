"""A reading page over a few made-up cases of two small models, in this process, at a free port of loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from components.core.spec import DiseaseSpec
from serving import bodies
from serving.access.audit import Audit, signing_key
from serving.access.layer import Access
from serving.access.policy import Policy
from serving.bodies.body import Body
from serving.predictor import Predictor, Query
from serving.reading.cases import CaseStore, now
from serving.reading.pages import ReadingPage
from serving.turns import Turns
from tests.serving import small_bodies
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import GAIT
from tests.serving.small_package import CATALOGUE, build, lung_nodule, onnx_bytes, reference

DEVICE, PATIENT = "0" * 16, "feedfacefeedface"


def patch(level: float, seed: int) -> np.ndarray:
    """A nodule in lung, HU; `level` moves the model's answer."""
    rows, columns = np.ogrid[:52, :52]
    disc = np.hypot(rows - 30, columns - 20)
    x = np.random.default_rng(seed).normal(-800 + 300 * level, 40, (52, 52)) + 600 * np.exp(-((disc / 8) ** 2))
    return np.clip(x, -1000, 400)[None].astype(np.float32)


def volume_spec() -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(CATALOGUE / "alzheimer-smri.toml").model_dump()
    target = {"kind": "binary", "classes": ["control", "ad"], "positive": "ad", "source": "made up"}
    return DiseaseSpec.model_validate(raw | {"abstain": {"outside": 0}, "normalise": {"method": "range"}, "target": target, "covariates": ()})


def brain(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, s) for s in shape[1:]), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    x = np.where(radius < 0.8, 0.6 + 0.2 * np.cos(6 * radius), 0.05) + np.random.default_rng(seed).normal(0, 0.02, shape[1:])
    return np.clip(x, 0, 1)[None].astype(np.float32)


class Site:
    """Args: predictors: by disease. cases: ids by what they are."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        lung = lung_nodule(normalise={"method": "range"})
        known = reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=240)
        packages = [build(folder / "lung", lung, known, synthetic=True)]
        mri = volume_spec()
        table = known.rename(columns={"score_benign": f"score_{mri.target.classes[0]}", "score_malignant": f"score_{mri.target.classes[1]}"})
        decision = {"kind": "threshold", "classes": list(mri.target.classes), "thresholds": [0.4], "positive": mri.target.positive}
        packages.append(build(folder / "mri", mri, table, synthetic=True, onnx=onnx_bytes(tuple(mri.input.shape)), decision=decision))
        packages.append(build(folder / "gait", small_bodies.disease(GAIT), reference({DEVICE: ("MAKER", "UNIT")}), synthetic=True))
        slides = DiseaseSpec.model_validate(small_bodies.disease(small_bodies.TILES).model_dump() | {"aggregate": {"method": "max"}})
        packages.append(
            build(folder / "slides", slides, known, synthetic=True, decision=decision | {"classes": ["normal", "tumour"], "positive": "tumour"})
        )
        self.predictors = {p.disease: Predictor(p, None) for p in packages}
        self.store = CaseStore(folder / "reading")
        self.inbox = folder / "inbox"
        self.audit = Audit(folder / "audit", folder / "heads", signing_key())
        self.turns = Turns(8)
        self.page = ReadingPage(self.store, lambda: self.predictors, self.turns, policy, self.audit, lambda disease: self.inbox / disease)
        self.app = Access(self.page.app, policy, self.audit, lambda: set(self.predictors))
        self.ids: dict[str, str] = {}
        for name, disease, array in (
            ("routine", "lung-nodule", patch(-0.6, 1)),
            ("urgent", "lung-nodule", patch(0.8, 2)),
            ("nothing", "lung-nodule", np.full((1, 52, 52), -700, np.float32)),
            ("volume", "alzheimer-smri", brain(tuple(mri.input.shape))),
        ):
            self.add(name, disease, array)
        body = Body(small_bodies.slide(folder, image=small_bodies.corner()))
        (query,) = bodies.read("image/tiff", body, slides, PSEUDONYMISER)
        self.keep("slide", slides.name, query)
        self.url = ""
        self.walk = self.add_recording(small_bodies.recording(12))

    def add(self, name: str, disease: str, array: np.ndarray) -> None:
        query = Query(array=array, device_key=DEVICE, manufacturer="SIEMENS", device_model="SOMATOM Force", patient=PATIENT, study=f"study-{name}")
        self.keep(name, disease, query)

    def keep(self, name: str, disease: str, query: Query) -> None:
        predictor = self.predictors[disease]
        (found,) = predictor.work([query])
        found.answer["request_id"] = f"{len(self.ids):032x}"
        positive = [predictor.spec.target.classes[k] for k in predictor.spec.positive_indices]
        self.ids[name] = self.store.add(query, found.answer, positive, now(), heat=predictor.slide_heat(query, found))

    def add_recording(self, content: bytes) -> list[str]:
        """The ids of its windows, in order of time."""
        predictor = self.predictors[GAIT]
        queries = bodies.read("text/csv", Body(content), predictor.spec, PSEUDONYMISER)
        answers = [answer | {"request_id": f"{len(self.ids):032x}-{n}"} for n, answer in enumerate(predictor.answer(queries))]
        return [self.store.add(query, answer, ["freeze"], now()) for query, answer in zip(queries, answers, strict=True)]


@contextmanager
def running(app: Any) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
