"""register: judge, pack, prove the export, keep, and only then let a model be found.

The order makes a kill harmless: the package is content-addressed in the store before the registry knows it, the registry gives the same digest
the version it already has, and the package folder takes its name last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core import gates, registration, registry
from components.core import package as packages
from components.core.atomic import atomic_dir
from components.core.calibration import Calibration
from components.core.errors import DataError
from components.core.fusion import Fusion
from components.core.models import build
from components.core.operating_point import Decision
from components.core.package import FUSION, ModelPackage, name_of
from components.core.spec import DiseaseSpec, Resources
from components.core.step import emit
from components.core.storage import open_store
from components.register import card, drift_reference, inference_service, onnx_embedding, onnx_export, precision

if TYPE_CHECKING:
    from feature_store.training import Split

SERVER = Resources(cpu=2, memory_gb=4)  # what a server asks for when the spec does not say


def register(spec: DiseaseSpec, *, dataset: Path, features: Path, model: Path, evaluation: Path, validation: Path, package: Path) -> dict[str, Any]:
    """Register a model with its verdict; a refused one is kept, with the reasons, and never becomes champion.

    Args:
        dataset, features, model, evaluation, validation: As written by the steps before.
        package: The model package, written whole or not at all, with `registration.json` and `inference-service.yaml` beside its content.

    Returns:
        The contents of `registration.json`: name, version, alias, verdict, reasons, gates, digest, uri.

    Raises:
        DataError: Inputs that do not belong together. GateError: the export answers differently. ServiceError: store or registry is away.
    """
    info, figures, facts = _read(dataset / "dataset.json"), _read(evaluation / "metrics.json"), _read(model / "model.json")
    _belong_together(spec, model, figures, info)
    synthetic, data_verdict = bool(info["synthetic"]), str(_read(validation / "validation.json").get("verdict", "unknown"))
    judgement = gates.judge(spec, figures, validation=data_verdict)
    name = name_of(spec.name, synthetic=synthetic)
    with atomic_dir(package) as partial:
        built = _pack(spec, partial, judgement, synthetic, info, data_verdict, facts, dataset, features, model, evaluation)
        emit("progress", what="packed", done=1, total=3)
        store = open_store()
        key = f"models/{name}/{built.digest}"
        uri = store.put_folder(built.folder, key)
        emit("progress", what="stored", done=2, total=3)
        if spec.normalise.method == "device":
            from feature_store.store import online_place, publish

            publish(features, online=online_place(name))
        alias = registry.CANDIDATE if synthetic else registry.CHAMPION if judgement.verdict == "pass" else None
        auc = figures["metrics"]["auc"]
        tags = {"family": str(facts["family"]), "auc": "" if auc["value"] is None else f"{auc['value']:.4f}", "spec_digest": spec.digest}
        version = registry.register(
            name, uri=uri, digest=built.digest, verdict=judgement.verdict, reasons=judgement.reasons, synthetic=synthetic, tags=tags, alias=alias
        )
        emit("progress", what="registered", done=3, total=3)
        record = {
            "name": name, "registered_name": registry.mlflow_name(name), "version": version.version, "alias": alias, "verdict": judgement.verdict,
            "reasons": judgement.reasons, "gates": [g.to_dict() for g in judgement.gates], "digest": built.digest, "uri": uri, "synthetic": synthetic,
        }  # fmt: skip
        manifest = inference_service.build(
            spec,
            name=name,
            uri=uri,
            digest=built.digest,
            verdict=judgement.verdict,
            synthetic=synthetic,
            resources=spec.resources.get("serve", SERVER),
            precision=built.precision,
        )
        for file in sorted(built.folder.iterdir()):
            file.rename(partial / file.name)
        built.folder.rmdir()
        (partial / "inference-service.yaml").write_text(inference_service.to_yaml(manifest), encoding="utf-8")
        (partial / registration.NAME).write_text(registration.text(record), encoding="utf-8")
        # Beside the stored package too, so that who fetches it there sees what the registry said.
        for extra in ("inference-service.yaml", registration.NAME):
            store.put_file(partial / extra, f"{key}/{extra}")
    return record


def _pack(
    spec: DiseaseSpec, partial: Path, judgement: gates.Judgement, synthetic: bool, info: dict[str, Any], data_verdict: str, facts: dict[str, Any],
    dataset: Path, features: Path, model: Path, evaluation: Path,
) -> ModelPackage:  # fmt: skip
    """The package under `partial/package`, and nothing else left in `partial`."""
    import pyarrow.parquet as pq

    from feature_store.training import load_split

    estimator = build(spec, facts["family"])
    estimator.load(model)
    reference = _profile(model)
    val: Split = load_split(spec, dataset, features, "val", reference)
    drafts = partial / "drafts"
    drafts.mkdir()
    onnx = onnx_export.export(estimator, val.samples, drafts / "model.onnx")
    operating = _read(evaluation / "operating_point.json")
    of_samples = evaluation / "samples.parquet"  # where predictions are of groups
    answers = pq.read_table(evaluation / "predictions.parquet").to_pandas()
    predictions, groups = (pq.read_table(of_samples).to_pandas(), answers) if of_samples.exists() else (answers, None)
    train = load_split(spec, dataset, features, "train", reference)
    calibrated = _read(evaluation / "calibration.json")
    engine = precision.measure(
        drafts, spec, onnx["feature_name"], val.samples, train.samples, Calibration.from_dict(calibrated.get("samples", calibrated)),
        Decision.from_dict(operating), _fuse(spec, features, val, evaluation), estimator=estimator,
    )  # fmt: skip
    embedded = None
    if onnx["embedding"] is not None:
        answered = [val if name == "val" else load_split(spec, dataset, features, name, reference) for name in drift_reference.splits(spec)]
        embedded = onnx_embedding.embedded(drafts / "model.onnx", onnx["feature_name"], train, answered)
    outside = drift_reference.write(drafts, spec, dataset, features, predictions, Decision.from_dict(operating), embedded, groups)
    figures, profiles = _read(evaluation / "metrics.json"), _profiles(features)
    known = {
        "dataset": info,
        "validation": data_verdict,
        "model": facts,
        "figures": figures,
        "operating": operating,
        "features": profiles,
        "onnx": onnx,
        "engine": engine,
        "outside": outside,
    }
    text = card.render(spec, judgement, synthetic=synthetic, facts=known)
    preprocessing = {
        "method": spec.normalise.method, "missing_profile": spec.normalise.missing_profile, "profile_max_age_days": spec.device.profile_max_age_days,
        "reference": reference.to_dict() if reference else None, "input": spec.input.model_dump(mode="json"),
    }  # fmt: skip
    files: dict[str, Path | bytes] = {
        "spec.json": spec.to_json().encode(), "model.json": _json(facts | {"onnx": onnx}), "preprocessing.json": _json(preprocessing),
        "features.json": _json(profiles), "card.md": text.encode(),
        **{name: evaluation / name for name in ("calibration.json", "operating_point.json", "metrics.json")},
        **({FUSION: evaluation / FUSION} if spec.covariates else {}),
        **{path.name: path for path in sorted(model.glob("*.safetensors"))},
        **{path.name: path for path in sorted(drafts.iterdir())},
    }  # fmt: skip
    built = packages.write(
        partial / "package",
        files,
        disease=spec.name,
        family=facts["family"],
        synthetic=synthetic,
        verdict=judgement.verdict,
        reasons=judgement.reasons,
    )
    for draft in drafts.iterdir():
        draft.unlink()
    drafts.rmdir()
    return ModelPackage.open(built.folder, allow_synthetic=True)  # what is stored has been read back and verified


def _fuse(spec: DiseaseSpec, features: Path, val: Split, evaluation: Path) -> precision.Fuse | None:
    """From calibrated to fused probabilities of validation samples."""
    from feature_store.covariates import told

    if not spec.covariates:
        return None
    shift, known = Fusion.from_dict(_read(evaluation / FUSION)), told(features, val.rows, spec.covariates)
    return lambda p, rows: shift.apply(p, [known[n] for n in rows.tolist()])


def _belong_together(spec: DiseaseSpec, model: Path, figures: dict[str, Any], info: dict[str, Any]) -> None:
    trained = DiseaseSpec.from_json((model / "spec.json").read_text(encoding="utf-8"), where=str(model / "spec.json"))
    if trained.digest != spec.digest:
        raise DataError("model of another spec", where=str(model), got=trained.digest[:12], allowed=spec.digest[:12])
    if figures["disease"] != spec.name or figures["synthetic"] != bool(info["synthetic"]):
        raise DataError("evaluation of another dataset", where="metrics.json", got=figures["disease"], allowed=spec.name)


def _profile(model: Path) -> Any:
    from components.core.devices import DeviceProfile

    path = model / "reference.json"
    raw = _read(path) if path.exists() else None
    return DeviceProfile.from_dict(raw) if raw else None


def _profiles(features: Path) -> dict[str, Any]:
    """Feature service and version of the profiles; both None for a source without devices."""
    path = features / "features.json"
    return _read(path) if path.exists() else {"feature_service": None, "profile_version": None}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError("missing or not JSON", where=str(path)) from None


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()
