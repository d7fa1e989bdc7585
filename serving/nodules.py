"""The nodules of a CT series as samples of a model: what `dxflow find` shows and what `dxflow pacs` writes back are the same answers."""

from __future__ import annotations

from pathlib import Path

from components.core.chain.candidate_classifier import DEFAULT, Detector
from components.core.chain.ct_volume import CtVolume
from components.core.chain.findings import Finding, patches
from components.core.errors import GateError
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from serving.predictor import Predictor, Query
from serving.records import loggable


def opened(folder: Path, *, allow_synthetic: bool) -> Predictor:
    """The package as the server would load it, with the online profiles of its devices."""
    package = ModelPackage.open(folder, allow_synthetic=allow_synthetic)
    profiles = None
    if package.spec.normalise.method == "device":
        from feature_store.store import OnlineProfiles, online_place

        profiles = OnlineProfiles(online_place(package.name))
    return Predictor(package, profiles)


def detector(path: Path | None, *, allow_synthetic: bool) -> Detector:
    """The detector of a file, or the one that comes along. Raises GateError for one fitted on synthetic data where that is not allowed."""
    made = Detector.read(path or DEFAULT)
    if made.synthetic and not allow_synthetic:
        raise GateError(
            "fitted on synthetic data, not for use on patients", where=f"detector {path or DEFAULT.name}", allowed="only with --allow-synthetic"
        )
    return made


def queries(volume: CtVolume, found: list[Finding], spec: DiseaseSpec) -> list[Query]:
    """One sample for each finding, with all that the inference log keeps of it."""
    device = volume.device
    return [
        Query(
            array=patch, device_key=device.key, manufacturer=device.manufacturer, device_model=device.model, software=device.software or None,
            patient=volume.patient, study=volume.study, series=volume.series, acquisition=loggable(volume.facts), source="dicom",
            covariates=volume.covariates,
        )
        for patch in patches(volume, found, spec)
    ]  # fmt: skip
