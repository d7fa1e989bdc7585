"""From one sample to one answer, with no server around it: normalise, score, calibrate, decide, or abstain and say why.

The same functions as in training do the work (`components/core/`). Nothing here knows KServe, and nothing imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import calibration, devices, image_quality
from components.core.engines import Wanted, open_engine, told
from components.core.errors import DataError, ServiceError
from components.core.outside import OUTSIDE, UNSEEN, Outside
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.uncertainty import Uncertainty
from serving import covariates, slide_answer
from serving.explain import Explainer, overlay_png
from serving.said import positive

if TYPE_CHECKING:
    from feature_store.store import OnlineProfiles

WITHOUT_PROFILE, STALE_PROFILE, CONSTANT = "device without profile", "stale device profile", "image without content"
TILES_ONLY = "this model answers for tiles only: its package holds no aggregate"
AT_ONCE = 256  # samples of one run of the network
STORE_AWAY = "profile store unavailable"
POOLED = "pooled profile used: "
NOT_TOLD = "the device is not told, and may be one that was never tested"
UNLIKE = f"{OUTSIDE}: the network sees nothing like it in what it was tested on"


@dataclass(frozen=True)
class Tiles:
    """All tiles of a slide that show tissue.

    Args:
        arrays: (n, *input.shape).
        places: (n, 2) centres x, y in microns.
        side_um: Of a tile, in microns; tiles lie side by side from the slide's corner.
        view: (h, w, 3) uint8, the whole slide.
        view_um: Of a pixel of `view`, in microns.
    """

    arrays: NDArray[Any]
    places: NDArray[np.float64]
    side_um: float
    view: NDArray[np.uint8]
    view_um: float


@dataclass(frozen=True)
class Query:
    """One sample as it came in, de-identified.

    Args:
        array: `spec.input.shape`, finite, in `spec.input.unit`.
        device_key: Pseudonym, or `UNKNOWN_DEVICE`.
        software, patient, study, series: Keyed hashes, where the input names them.
        acquisition: `acq_*` columns of the manifest.
        source: `dicom`, `picture`, `nifti`, `recording`, `table`, `slide`, or `array` for numbers.
        part: Which part of its file it is: {window, start_s} of a recording, {row} of a table.
        faults: Why its file's format calls it unusable: the model is not asked, and these are the reasons.
        tiles: Of a whole slide, which gets one answer; `array` is then the one that stands for it in the log's figures.
        covariates: What is told of the patient, as `serving/covariates.py` lets it in.
        recording: How much of the sample's recording its windows judge, and why not the rest: `recordings/coverage.py`.
        edges: Which side of the patient lies at the left, right, top and bottom of the image (`laterality.edges`), where its header says so.
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
    covariates: Mapping[str, Any] = field(default_factory=dict)
    recording: Mapping[str, Any] | None = None
    edges: tuple[str, str, str, str] | None = None


@dataclass(frozen=True)
class Answered:
    """What becomes of one sample.

    Args:
        answer: What the client gets, less the request's id.
        embedding: (d,), where the graph has one and the model was asked. For the log.
        figures: Of the image, raw, before any normalisation. For the log.
        tiles: (n, K) calibrated probabilities of a slide's tiles; None for other samples, and on abstention.
    """

    answer: dict[str, Any]
    embedding: NDArray[np.float32] | None
    figures: dict[str, float]
    tiles: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Explained:
    """An answer and where it comes from.

    Args:
        heat: (*places) in [0, 1]; None on abstention, with `method`, `classes` and `overlay`. Of a slide on the grid of its view.
        method: "Grad-CAM", "occlusion" or "tile probabilities".
        classes: What the heat speaks for.
        overlay: PNG of the sample with the heat on it.
        pixel_um: Of a slide's heat, in microns.
    """

    answered: Answered
    heat: NDArray[np.float32] | None
    method: str | None
    classes: tuple[str, ...]
    overlay: bytes | None
    pixel_um: float | None = None


class Predictor:
    """One opened model package, ready to answer. Not for several threads at once: the engine has its own.

    Args:
        package: Verified; its network is loaded and run once here, so that a broken package fails at the start.
        profiles: The online store of device profiles; None where there is none, which counts as no profile for any device.
        wanted: Engine and precision.
    """

    def __init__(self, package: ModelPackage, profiles: OnlineProfiles | None, wanted: Wanted | None = None) -> None:
        self.package, self.spec, self._profiles = package, package.spec, profiles
        self._calibration, self._decision, self._fusion = package.sample_calibration, package.operating_point, package.fusion
        self.engine = open_engine(package, wanted)
        self.arithmetic = told(self.engine, package.precision)
        self._aggregate = slide_answer.aggregator(package)
        self._projection = package.projection
        reference = package.reference
        self._outside, self._uncertainty = Outside.of(package), Uncertainty.learn(self.spec, reference)
        self.check = self._outside.check  # whether images of something else are told, or why not
        groups = package.groups
        self._of_slides = Uncertainty.learn(self.spec, reference[:0] if groups is None else groups)
        known = reference.groupby("device_key")[["manufacturer", "model"]].first()
        self._devices = {str(key): (_text(row["manufacturer"]), _text(row["model"])) for key, row in known.iterrows()}
        self.known_devices = frozenset(self._devices)
        self._positive = positive(self.spec)
        self._explainer = Explainer(package)
        self._warm_up()

    def _warm_up(self) -> None:
        low, high = self.spec.input.range
        sample = np.linspace(low, high, int(np.prod(self.spec.input.shape)), dtype=np.float32).reshape(1, *self.spec.input.shape)
        x = devices.normalise(sample, self.spec, None, self.package.reference_profile)
        try:
            scores, embedding = self.engine.run(x)
        except Exception as error:  # engines' exceptions have no common base
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
        image_quality.figures(sample, self.spec)

    def answer(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        """One answer per sample, in order. `request_id` is added by the server.

        Returns:
            model, version, digest, disease, synthetic, engine; `probabilities` {class: p}, empty on abstention; `uncertainty`
            (`components/core/uncertainty.py`), None on abstention; `decision`, None on abstention; `positive` {classes, name}, what the interval is
            about, or None; `abstain`, `reasons`; `device` {key, manufacturer, model, status: known, unseen, stale, or unknown where nobody said
            which device it is, profile}; `checks` {outside: whether images of something else are told, or why not};
            `operating_point`; `part` where the sample is one of several in its file; `recording` {seconds, judged_s,
            windows, windows_missing, not_judged_s {reason: seconds}} of a window's; `covariates` {used, not_used} where the spec names any.
        """
        return [one.answer for one in self.work(queries)]

    def work(self, queries: Sequence[Query]) -> list[Answered]:
        """The answers, and what the log keeps beside them; each as if it had been asked alone."""
        arrays = np.stack([query.array for query in queries])  # of bytes where they came as bytes: those need no look for what is not finite
        table = image_quality.figures(arrays, self.spec)
        figures = [{name: float(values[n]) for name, values in table.items()} for n in range(len(arrays))]  # raw, before any normalisation
        beyond = self._outside.reasons(arrays, table, [query.acquisition for query in queries])
        states = [self._device(query, own) for query, own in zip(queries, beyond, strict=True)]
        whole = [n for n, state in enumerate(states) if not state.abstain and queries[n].tiles is not None]
        asked = [n for n, state in enumerate(states) if not state.abstain and queries[n].tiles is None]
        p: dict[int, NDArray[np.float64]] = {}
        embeddings: dict[int, NDArray[np.float32]] = {}
        if asked:
            batch = arrays if len(asked) == len(queries) else arrays[asked]
            x = devices.normalise(batch, self.spec, [states[n].profile for n in asked], self.package.reference_profile)
            scores, embedded = self._run(x)
            if embedded is not None:
                embeddings = dict(zip(asked, embedded, strict=True))
            found = calibration.apply(self._calibration, scores)
            if self._fusion is not None:
                found = self._fusion.apply(found, [queries[n].covariates for n in asked])
            if not np.isfinite(found).all():
                raise DataError("the model gave values that are not finite", where=self.package.name)
            p = dict(zip(asked, found, strict=True))
            for n in self._unlike(asked, embeddings):
                states[n] = replace(states[n], abstain=True, reasons=[*states[n].reasons, UNLIKE])
                del p[n]
        tiles = {n: self._tiles(queries[n], states[n].profile) for n in whole}
        p |= {n: self._whole(queries[n], found) for n, found in tiles.items()}
        sure: dict[int, dict[str, Any]] = {}
        names: dict[int, str] = {}
        if p:
            answered = np.stack(list(p.values()))
            for learned, own in ((self._uncertainty, p.keys() - tiles.keys()), (self._of_slides, tiles.keys())):  # tiles say nothing of slides
                if own:
                    sure |= dict(zip(own, learned.describe(np.stack([p[n] for n in own])), strict=True))
            names = dict(zip(p, self._decision.names(answered), strict=True))
        package = self.package
        return [
            Answered(
                {
                    "model": package.name,
                    "version": package.version,
                    "digest": package.digest,
                    "disease": package.disease,
                    "synthetic": package.synthetic,
                    "engine": self.arithmetic,
                    "probabilities": {c: float(v) for c, v in zip(self.spec.target.classes, p[n], strict=True)} if n in p else {},
                    "uncertainty": sure.get(n),
                    "decision": names.get(n),
                    "positive": self._positive,
                    "abstain": state.abstain,
                    "reasons": state.reasons,
                    "device": state.described,
                    "checks": {"outside": self.check},
                    "operating_point": self._decision.to_dict(),
                }
                | covariates.answered(self._fusion, queries[n].covariates, asked=n in p)
                | ({} if (part := queries[n].part) is None else {"part": dict(part)})
                | ({} if (whole := queries[n].recording) is None else {"recording": dict(whole)}),
                embeddings.get(n),
                own,
                tiles.get(n),
            )
            for n, (state, own) in enumerate(zip(states, figures, strict=True))
        ]

    def _unlike(self, asked: Sequence[int], embeddings: Mapping[int, NDArray[np.float32]]) -> list[int]:
        """Samples whose embedding lies outside the reference's."""
        if self._projection is None or not embeddings:
            return []
        columns = np.stack(list(self._projection.columns([embeddings.get(n) for n in asked]).values()), 1)
        return [n for n, far in zip(asked, self._outside.far(columns), strict=True) if far]

    def explain(self, query: Query) -> Explained | None:
        """Answer one sample and say where in it the answer comes from; None where the model answers about rows of a table."""
        if not self._explainer.offered:
            return None
        (answered,) = self.work([query])
        if answered.answer["abstain"]:
            return Explained(answered, None, None, (), None)
        names = self.explained(answered.answer)
        if query.tiles is not None:
            heat = self.slide_heat(query, answered)
            assert heat is not None
            overlay = overlay_png(query.tiles.view.transpose(2, 0, 1), heat, self.spec)
            return Explained(answered, heat, slide_answer.METHOD, names, overlay, query.tiles.view_um)
        profile = self._device(query, ()).profile
        x = devices.normalise(np.asarray(query.array, dtype=np.float32)[None], self.spec, [profile], self.package.reference_profile)[0]
        heat, method = self._explainer.heat(x, self._explained(answered.answer))
        return Explained(answered, heat, method, names, overlay_png(query.array, heat, self.spec))

    def slide_heat(self, query: Query, answered: Answered) -> NDArray[np.float32] | None:
        """(h, w) in [0, 1] on the grid of a slide's view: how probable the explained classes are in each tile; None without a slide or an answer."""
        if query.tiles is None or answered.tiles is None:
            return None
        return slide_answer.heat(query.tiles, answered.tiles[:, list(self._explained(answered.answer))].sum(1))

    def explained(self, answer: Mapping[str, Any]) -> tuple[str, ...]:
        """The classes that a heat-map of this answer speaks for."""
        return tuple(self.spec.target.classes[k] for k in self._explained(answer))

    def _explained(self, answer: Mapping[str, Any]) -> tuple[int, ...]:
        """What a reader wants to see: signs of what is looked for, whatever was decided; without such a class, of the most probable one."""
        if self.spec.positive_indices:
            return self.spec.positive_indices
        p = answer["probabilities"]
        return (self.spec.target.classes.index(max(p, key=p.__getitem__)),)

    def _run(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As the engine's; a long recording in pieces, so that memory stays flat."""
        if len(x) <= AT_ONCE:
            return self.engine.run(x)
        pieces = [self.engine.run(x[n : n + AT_ONCE]) for n in range(0, len(x), AT_ONCE)]
        embeddings = [e for _, e in pieces if e is not None]
        return np.concatenate([s for s, _ in pieces]), np.concatenate(embeddings) if embeddings else None

    def _tiles(self, query: Query, profile: devices.DeviceProfile | None) -> NDArray[np.float64]:
        """(n, K) calibrated probabilities of a slide's tiles."""
        assert query.tiles is not None
        found = []
        for start in range(0, len(query.tiles.arrays), AT_ONCE):
            piece = np.asarray(query.tiles.arrays[start : start + AT_ONCE], dtype=np.float32)
            x = devices.normalise(piece, self.spec, [profile] * len(piece), self.package.reference_profile)
            found.append(calibration.apply(self._calibration, self._run(x)[0]))
        return np.concatenate(found)

    def _whole(self, query: Query, found: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K,) of a slide from its tiles'."""
        assert query.tiles is not None
        assert self._aggregate is not None
        return slide_answer.of_slide(self.package, self._aggregate, found, query.tiles.places)[0]

    def _device(self, query: Query, beyond: Sequence[str]) -> _State:
        """What is known of a sample's device and of the sample before the model is asked, and what follows for the answer.

        Args:
            beyond: Why the sample lies outside of what the model was tested on.
        """
        key = query.device_key
        maker, model = self._devices.get(key, (None, None))
        described: dict[str, Any] = {"key": key, "manufacturer": query.manufacturer or maker, "model": query.device_model or model}
        reasons: list[str] = []
        abstain = False
        profile = None
        if self.spec.normalise.method != "device":
            state, status = "not needed", self._seen(key)
        else:
            try:
                found = (
                    self._profiles.get(key, max_age_days=self.spec.device.profile_max_age_days) if self._profiles and key != UNKNOWN_DEVICE else None
                )
            except ServiceError:  # the device may well have a profile: neither "unseen" nor the pooled reference would be true (decision 0201)
                state, status = "unavailable", self._seen(key)
                abstain = True
                reasons.append(STORE_AWAY)
            else:
                state = found.status if found else "missing"
                status = UNKNOWN_DEVICE if key == UNKNOWN_DEVICE else {"ok": "known", "missing": "unseen", "stale": "stale"}[state]
                if found and state == "ok":
                    profile = found.profile
                else:
                    why = STALE_PROFILE if state == "stale" else WITHOUT_PROFILE
                    abstain = self.spec.normalise.missing_profile == "abstain"
                    reasons.append(why if abstain else POOLED + why)
                    state = state if abstain else "pooled"
        told = status != UNKNOWN_DEVICE
        if self.spec.abstain.unseen_device and (status == "unseen" if told else self.known_devices - {key}) and not abstain:
            abstain = True
            reasons.append(UNSEEN if told else NOT_TOLD)
        if query.tiles is not None and self._aggregate is None:
            abstain = True
            reasons.append(TILES_ONLY)
        if query.faults:
            abstain = True
            reasons.extend(query.faults)
        elif self.spec.input.layout != "table" and np.ptp(query.array) == 0:  # a row of equal values is a row
            abstain = True
            reasons.append(CONSTANT)
        elif beyond:
            abstain = True
            reasons += beyond
        return _State(described | {"status": status, "profile": state}, profile, abstain, reasons)

    def _seen(self, key: str) -> str:
        """A device that nobody named is neither known nor unseen, also where training had none that was named."""
        return UNKNOWN_DEVICE if key == UNKNOWN_DEVICE else "known" if key in self._devices else "unseen"


@dataclass(frozen=True)
class _State:
    """A profile of None means the reference itself, which is what `pooled` asks for."""

    described: dict[str, Any]
    profile: devices.DeviceProfile | None
    abstain: bool
    reasons: list[str]


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str) and value else None
