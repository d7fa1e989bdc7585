"""From one sample to one answer, with no server around it: normalise, score, calibrate, decide, or abstain and say why.

The same functions as in training do the work (`components/core/`). Nothing here knows KServe, and nothing imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import calibration, devices, image_quality
from components.core.cores import available_cores
from components.core.errors import DataError
from components.core.models.family import onnx_input
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from serving import slide_answer

if TYPE_CHECKING:
    from feature_store.store import OnlineProfiles

WITHOUT_PROFILE, STALE_PROFILE, CONSTANT = "device without profile", "stale device profile", "image without content"
TILES_ONLY = "this model answers for tiles only: its package holds no aggregate"
POOLED = "pooled profile used: "
EMBEDDING = "embedding"
AT_ONCE = 256  # samples of one run of the network


@dataclass(frozen=True)
class Tiles:
    """All tiles of a slide that show tissue.

    Args:
        arrays: (n, *input.shape).
        places: (n, 2) centres x, y in microns.
    """

    arrays: NDArray[Any]
    places: NDArray[np.float64]


@dataclass(frozen=True)
class Query:
    """One sample as it came in, de-identified.

    Args:
        array: `spec.input.shape`, finite, in `spec.input.unit`.
        device_key: Pseudonym, or `UNKNOWN_DEVICE`.
        software, patient, study, series: Keyed hashes, where the input names them.
        acquisition: `acq_*` columns of the manifest.
        source: `dicom`, `picture`, `nifti`, `recording`, `table`, `slide`, or `array` for numbers.
        tiles: Of a whole slide, which gets one answer; `array` is then the one that stands for it in the log's figures.
        part: Which part of its file it is: {window, start_s} of a recording, {row} of a table.
        faults: Why its file's format calls it unusable: the model is not asked, and these are the reasons.
    """

    array: NDArray[Any]
    device_key: str = UNKNOWN_DEVICE
    manufacturer: str | None = None
    device_model: str | None = None
    software: str | None = None
    patient: str | None = None
    study: str | None = None
    series: str | None = None
    acquisition: Mapping[str, Any] = field(default_factory=dict)
    source: str = "array"
    part: Mapping[str, Any] | None = None
    faults: tuple[str, ...] = ()
    tiles: Tiles | None = None


class Predictor:
    """One opened model package, ready to answer. Not for several threads at once: ONNX Runtime has its own.

    Args:
        package: Verified; its ONNX graph is loaded and run once here, so that a broken package fails at the start.
        profiles: The online store of device profiles; None where there is none, which counts as no profile for any device.
    """

    def __init__(self, package: ModelPackage, profiles: OnlineProfiles | None) -> None:
        self.package, self.spec, self._profiles = package, package.spec, profiles
        self._calibration, self._decision = package.sample_calibration, package.operating_point
        self._aggregate = slide_answer.aggregator(package)
        self._feature_name = package.model_facts.get("feature_name")
        self._session = _session(package)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [EMBEDDING] * any(o.name == EMBEDDING for o in self._session.get_outputs())
        known = package.reference.groupby("device_key")[["manufacturer", "model"]].first()
        self._devices = {str(key): (_text(row["manufacturer"]), _text(row["model"])) for key, row in known.iterrows()}
        self._warm_up()

    def _warm_up(self) -> None:
        low, high = self.spec.input.range
        sample = np.linspace(low, high, int(np.prod(self.spec.input.shape)), dtype=np.float32).reshape(1, *self.spec.input.shape)
        x = devices.normalise(sample, self.spec, None, self.package.reference_profile)
        try:
            scores, embedding = self._run(x)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise DataError(
                "ONNX graph does not run on the spec's input", where=f"{self.package.name}/model.onnx", got=type(error).__name__
            ) from None
        if scores.shape != (1, self.spec.n_scores):
            raise DataError(
                "ONNX graph gives other scores than the spec", where=self.package.name, got=list(scores.shape), allowed=[1, self.spec.n_scores]
            )
        if embedding is not None and len(embedding) != 1:
            raise DataError("ONNX graph gives other embeddings than one a sample", where=self.package.name, got=list(embedding.shape))
        self._decision.names(calibration.apply(self._calibration, scores))

    def answer(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        """One answer per sample, in order. `request_id` is added by the server.

        Returns:
            model, version, digest, disease, synthetic; `probabilities` {class: p}, empty when the model was not asked; `decision`, None on
            abstention; `abstain`, `reasons`; `device` {key, manufacturer, model, status, profile}; `operating_point`; `part` where the sample is
            one of several in its file.
        """
        return self.answer_and_embed(queries)[0]

    def answer_and_embed(self, queries: Sequence[Query]) -> tuple[list[dict[str, Any]], list[NDArray[np.float32] | None]]:
        """The answers, and beside each the sample's embedding (d,), where the graph has an output of that name and the model was asked."""
        states = [self._device(query) for query in queries]
        whole = [n for n, state in enumerate(states) if not state.abstain and queries[n].tiles is not None]
        asked = [n for n, state in enumerate(states) if not state.abstain and queries[n].tiles is None]
        probabilities: dict[int, NDArray[np.float64]] = {}
        names: dict[int, str] = {}
        embeddings: dict[int, NDArray[np.float32]] = {}
        if asked:
            batch = np.stack([np.asarray(queries[n].array, dtype=np.float32) for n in asked])
            x = devices.normalise(batch, self.spec, [states[n].profile for n in asked], self.package.reference_profile)
            scores, embedded = self._run(x)
            if embedded is not None:
                embeddings = dict(zip(asked, embedded, strict=True))
            p = calibration.apply(self._calibration, scores)
            if not np.isfinite(p).all():
                raise DataError("the model gave values that are not finite", where=self.package.name)
            probabilities = dict(zip(asked, p, strict=True))
            names = dict(zip(asked, self._decision.names(p), strict=True))
        for n in whole:
            p = self._whole(queries[n], states[n].profile)
            probabilities[n], names[n] = p[0], self._decision.names(p)[0]
        package = self.package
        answers = [
            {
                "model": package.name,
                "version": package.version,
                "digest": package.digest,
                "disease": package.disease,
                "synthetic": package.synthetic,
                "probabilities": {c: float(p) for c, p in zip(self.spec.target.classes, probabilities[n], strict=True)} if n in probabilities else {},
                "decision": names.get(n),
                "abstain": state.abstain,
                "reasons": state.reasons,
                "device": state.described,
                "operating_point": self._decision.to_dict(),
            }
            | ({} if (part := queries[n].part) is None else {"part": dict(part)})
            for n, state in enumerate(states)
        ]
        return answers, [embeddings.get(n) for n in range(len(queries))]

    def _whole(self, query: Query, profile: devices.DeviceProfile | None) -> NDArray[np.float64]:
        """(1, K) of a slide."""
        assert query.tiles is not None
        assert self._aggregate is not None
        found = []
        for start in range(0, len(query.tiles.arrays), AT_ONCE):
            piece = np.asarray(query.tiles.arrays[start : start + AT_ONCE], dtype=np.float32)
            x = devices.normalise(piece, self.spec, [profile] * len(piece), self.package.reference_profile)
            found.append(calibration.apply(self._calibration, self._run(x)[0]))
        return slide_answer.of_slide(self.package, self._aggregate, np.concatenate(found), query.tiles.places)

    def figures(self, queries: Sequence[Query]) -> list[dict[str, float]]:
        """The image figures of each sample, for the log: raw, before any normalisation."""
        table = image_quality.figures(np.stack([q.array for q in queries]), self.spec)
        return [{name: float(values[n]) for name, values in table.items()} for n in range(len(queries))]

    def _run(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores (n, K), and embeddings (n, d) where the graph offers them; a long recording in pieces, so that memory stays flat."""
        if len(x) > AT_ONCE:
            pieces = [self._run(x[n : n + AT_ONCE]) for n in range(0, len(x), AT_ONCE)]
            embeddings = [e for _, e in pieces if e is not None]
            return np.concatenate([s for s, _ in pieces]), np.concatenate(embeddings) if embeddings else None
        found = [np.asarray(a) for a in self._session.run(["scores", *self._outputs], {self._input: onnx_input(self._feature_name, x)})]
        return found[0], found[1].reshape(len(found[1]), -1).astype(np.float32) if self._outputs else None

    def _device(self, query: Query) -> _State:
        """What is known of a sample's device, and what follows for the answer."""
        key = query.device_key
        maker, model = self._devices.get(key, (None, None))
        described: dict[str, Any] = {"key": key, "manufacturer": query.manufacturer or maker, "model": query.device_model or model}
        reasons: list[str] = []
        abstain = False
        profile = None
        if self.spec.normalise.method != "device":
            state, status = "not needed", "known" if key in self._devices else "unseen"
        else:
            found = self._profiles.get(key, max_age_days=self.spec.device.profile_max_age_days) if self._profiles and key != UNKNOWN_DEVICE else None
            state = found.status if found else "missing"
            status = {"ok": "known", "missing": "unseen", "stale": "stale"}[state]
            if found and state == "ok":
                profile = found.profile
            else:
                why = STALE_PROFILE if state == "stale" else WITHOUT_PROFILE
                abstain = self.spec.normalise.missing_profile == "abstain"
                reasons.append(why if abstain else POOLED + why)
                state = state if abstain else "pooled"
        if query.tiles is not None and self._aggregate is None:
            abstain = True
            reasons.append(TILES_ONLY)
        if query.faults:
            abstain = True
            reasons.extend(query.faults)
        elif np.ptp(query.array) == 0:
            abstain = True
            reasons.append(CONSTANT)
        return _State(described | {"status": status, "profile": state}, profile, abstain, reasons)


@dataclass(frozen=True)
class _State:
    """A profile of None means the reference itself, which is what `pooled` asks for."""

    described: dict[str, Any]
    profile: devices.DeviceProfile | None
    abstain: bool
    reasons: list[str]


def _session(package: ModelPackage) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not take the cores of other work
    try:
        return onnxruntime.InferenceSession(str(package.onnx), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base; the message may name paths, so only the kind is told
        raise DataError("ONNX graph does not load", where=f"{package.name}/model.onnx", got=type(error).__name__) from None


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str) and value else None
