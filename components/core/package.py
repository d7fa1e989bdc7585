"""The model package: everything that is needed to answer with a model, and nothing that runs code when read.

    package.json         schema, name, disease, family, synthetic, verdict, reasons, files {path: sha256}; its SHA-256 is the digest
    spec.json model.safetensors model.onnx model.json preprocessing.json calibration.json operating_point.json metrics.json
    reference.parquet features.json card.md
    engine.json                               the precision to serve in; what less than float32 changes on validation; model.int8.onnx where accepted
    outside.json                              how far a sample may lie from those of training and test; older packages lack it
    simulated.parquet embedding.json          tables have neither, models without an embedding no embedding.json; older packages lack them
    fusion.json                               where the spec names covariates
    groups.parquet                            where the spec aggregates; older packages lack it

`registration.json` (what the registry answered) and `inference-service.yaml` (where it may run) come after the digest exists, so they stand
beside the package, not in it. Opening verifies every hash before anything is read from a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core import registration
from components.core.atomic import atomic_dir
from components.core.calibration import Calibration
from components.core.errors import DataError, GateError
from components.core.operating_point import Decision
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

    from components.core.devices import DeviceProfile
    from components.core.embedding import Projection
    from components.core.fusion import Fusion
    from components.core.models.family import Estimator

SCHEMA = 1
INDEX = "package.json"
REQUIRED = (
    "spec.json",
    "model.onnx",
    "model.json",
    "preprocessing.json",
    "calibration.json",
    "operating_point.json",
    "metrics.json",
    "reference.parquet",
    "features.json",
    "card.md",
)
SIMULATED = "simulated.parquet"
EMBEDDING = "embedding.json"
OUTSIDE = "outside.json"
ENGINE = "engine.json"
FUSION = "fusion.json"
GROUPS = "groups.parquet"
BESIDE = {registration.NAME, "inference-service.yaml", ".dxflow.json"}  # written after the digest, the last one by the object store
SYNTHETIC = "synthetic/"


def name_of(disease: str, *, synthetic: bool) -> str:
    """`<disease>`, or `synthetic/<disease>`."""
    return f"{SYNTHETIC}{disease}" if synthetic else disease


class ModelPackage:
    """A verified package folder. Make one with `ModelPackage.open`."""

    def __init__(self, folder: Path, info: dict[str, Any], digest: str) -> None:
        self.folder, self.info, self.digest = folder, info, digest

    @classmethod
    def open(cls, folder: str | Path, *, allow_synthetic: bool = False, digest: str | None = None) -> ModelPackage:
        """Verify and open.

        Args:
            digest: What the registry says it should be; None: what `registration.json` beside it says, and any where that is absent.

        Raises:
            DataError: A file is missing, changed or not listed (names it), or the folder is no package.
            GateError: Trained on synthetic data, and that was not allowed.
        """
        folder = Path(folder)
        try:
            text = (folder / INDEX).read_bytes()
            info = json.loads(text)
            files = {str(path): str(sha) for path, sha in info["files"].items()}
            synthetic, name = bool(info["synthetic"]), str(info["name"])
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise DataError(f"not a model package: {INDEX} is missing or unreadable", where=str(folder)) from None
        if info.get("schema") != SCHEMA:
            raise DataError("model package of another schema", where=str(folder), got=info.get("schema"), allowed=SCHEMA)
        own = digest_of(info)
        if digest is not None and own != digest:
            raise DataError("another package than the one registered", where=str(folder), got=own[:12], allowed=digest[:12])
        _verify(folder, files)
        if synthetic != name.startswith(SYNTHETIC):
            raise DataError("name and origin contradict each other", where=f"{folder}/{INDEX}", got=f"'{name}', synthetic {synthetic}")
        if synthetic and not allow_synthetic:
            raise GateError(
                "trained on synthetic data, not for use on patients", where=f"model package {name}", allowed="only with --allow-synthetic"
            )
        package = cls(folder, info, own)
        _ = package.registration  # now: a server's copy may go, and what is not as it was written must not be served first
        return package

    @property
    def name(self) -> str:
        """`<disease>` or `synthetic/<disease>`."""
        return self.info["name"]

    @property
    def disease(self) -> str:
        return self.info["disease"]

    @property
    def family(self) -> str:
        """Key of `spec.families`."""
        return self.info["family"]

    @property
    def synthetic(self) -> bool:
        return self.info["synthetic"]

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `insufficient evidence`."""
        return self.info["verdict"]

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not `pass`."""
        return list(self.info["reasons"])

    @cached_property
    def spec(self) -> DiseaseSpec:
        return DiseaseSpec.from_json(self._text("spec.json"), where=f"{self.name}/spec.json")

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration.from_dict(self._json("calibration.json"))

    @cached_property
    def sample_calibration(self) -> Calibration:
        """Of what the model says to one sample; `calibration` itself, unless the spec aggregates: that one is then of groups."""
        raw = self._json("calibration.json")
        return Calibration.from_dict(raw.get("samples", raw))

    @cached_property
    def fusion(self) -> Fusion | None:
        """How covariates shift calibrated probabilities. None where the spec names none. Raises DataError for one of another spec."""
        from components.core.fusion import Fusion

        found = Fusion.from_json(self._text(FUSION)) if FUSION in self.info["files"] else None
        own = (found.covariates, found.classes) if found else ((), self.spec.target.classes)
        if own != (self.spec.covariates, self.spec.target.classes):
            raise DataError("fusion of another spec", where=f"{self.name}/{FUSION}", got=list(own[0]), allowed=list(self.spec.covariates))
        return found

    @cached_property
    def operating_point(self) -> Decision:
        return Decision.from_dict(self._json("operating_point.json"))

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """`method`, `missing_profile`, `reference` (a device profile or None), `input`."""
        return self._json("preprocessing.json")

    @cached_property
    def reference_profile(self) -> DeviceProfile | None:
        """The training pool that every device is brought to; None where the method needs none."""
        from components.core.devices import DeviceProfile

        raw = self.preprocessing["reference"]
        return None if raw is None else DeviceProfile.from_dict(raw)

    @cached_property
    def reference(self) -> pd.DataFrame:
        """One row per validation and test sample: device, split, label, `score_<class>`, image figures, acquisition: what drift compares to."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "reference.parquet").to_pandas()

    @cached_property
    def groups(self) -> pd.DataFrame | None:
        """Where groups answer (whole slides): one row per validation and test group, as `reference` has samples: device, split, label,
        `score_<class>`, decision. None where samples answer, and in packages older than this."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / GROUPS).to_pandas() if GROUPS in self.info["files"] else None

    @cached_property
    def simulated(self) -> pd.DataFrame | None:
        """What each change of the acquisition does to the image figures: `cause`, `strength`, figures. None where the package does not say."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / SIMULATED).to_pandas() if SIMULATED in self.info["files"] else None

    @cached_property
    def projection(self) -> Projection | None:
        """What the monitor makes of a logged embedding. None where the model gives none, or the package is older than this."""
        from components.core.embedding import Projection

        return Projection.from_json(self._text(EMBEDDING), where=f"{self.name}/{EMBEDDING}") if EMBEDDING in self.info["files"] else None

    @cached_property
    def outside(self) -> dict[str, Any] | None:
        """`image` and `network`: measures as `components/core/likeness.py` keeps them, or None. None where the package is older than this."""
        return self._json(OUTSIDE) if OUTSIDE in self.info["files"] else None

    def accepted_precisions(self, engine: str) -> tuple[str, ...]:
        """What register measured of an engine and accepted; none in older packages."""
        if ENGINE not in self.info["files"]:
            return ()
        return tuple(str(one["precision"]) for one in self._json(ENGINE)["tried"] if one["accepted"] and one["engine"] == engine)

    @property
    def precision(self) -> str:
        """What registration chose for servers to compute in; float32 in packages older than the choice."""
        return str(self._json(ENGINE).get("precision", "f32")) if ENGINE in self.info["files"] else "f32"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self._json("metrics.json")

    @cached_property
    def features(self) -> dict[str, Any]:
        """`feature_service` and `profile_version` of the profiles that the model was trained with."""
        return self._json("features.json")

    @cached_property
    def model_facts(self) -> dict[str, Any]:
        """`model.json` as train wrote it, and `onnx`: its input."""
        return self._json("model.json")

    @property
    def card(self) -> str:
        """Markdown."""
        return self._text("card.md")

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @cached_property
    def registration(self) -> dict[str, Any]:
        """What the registry answered: version, alias, URI; empty for a package that did not come through it. Read when the package is opened."""
        return registration.read(self.folder, self.digest)

    @property
    def version(self) -> str:
        """The registry's version, else the first 12 characters of the digest."""
        return str(self.registration.get("version") or self.digest[:12])

    @property
    def replaces(self) -> frozenset[str]:
        """Digests that this package had before somebody was erased from it."""
        return frozenset(map(str, self.registration.get("replaces") or ()))

    @property
    def digests(self) -> frozenset[str]:
        """`digest` and `replaces`: whose answers are this model's own."""
        return self.replaces | {self.digest}

    def estimator(self) -> Estimator:
        """The model with its weights."""
        from components.core import models

        model = models.build(self.spec, self.family)
        model.load(self.folder)
        return model

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def _json(self, name: str) -> Any:
        return json.loads(self._text(name))


def write(
    folder: str | Path,
    files: Mapping[str, Path | bytes],
    *,
    disease: str,
    family: str,
    synthetic: bool,
    verdict: str,
    reasons: list[str],
) -> ModelPackage:
    """Write a package folder, whole or not at all. The same content gives the same digest.

    Args:
        files: Name in the package -> a file to copy, or its bytes. At least `REQUIRED` and one file of weights.

    Raises:
        DataError: A required file is missing.
    """
    if missing := [name for name in REQUIRED if name not in files]:
        raise DataError("incomplete model package", where=str(folder), got=f"no {', '.join(missing)}")
    with atomic_dir(folder) as partial:
        hashes: dict[str, str] = {}
        for name, content in sorted(files.items()):
            target = partial / _plain(name, str(folder))
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
            hashes[name] = _sha256(target)
        info: dict[str, Any] = {
            "schema": SCHEMA,
            "name": name_of(disease, synthetic=synthetic),
            "disease": disease,
            "family": family,
            "synthetic": synthetic,
            "verdict": verdict,
            "reasons": reasons,
            "files": hashes,
        }
        (partial / INDEX).write_text(json.dumps(info, indent=1, sort_keys=True), encoding="utf-8")
    return ModelPackage(Path(folder), info, digest_of(info))


def digest_of(info: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `package.json`: it stands for every byte of the package."""
    return hashlib.sha256(json.dumps(info, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _verify(folder: Path, files: dict[str, str]) -> None:
    for name, expected in sorted(files.items()):
        path = folder / _plain(name, str(folder))
        if path.is_symlink() or not path.is_file():
            raise DataError("file of the model package is missing", where=f"{folder}/{name}")
        if _sha256(path) != expected:
            raise DataError("file of the model package was changed", where=f"{folder}/{name}", got="another SHA-256")
    if missing := [name for name in REQUIRED if name not in files]:
        raise DataError("incomplete model package", where=str(folder), got=f"no {', '.join(missing)}")
    for path in sorted(folder.rglob("*")):
        if (path.name not in files and path.name not in BESIDE | {INDEX}) or path.parent != folder or path.is_symlink():
            raise DataError("file that does not belong to the model package", where=str(path))


def _plain(name: str, where: str) -> str:
    """A file name without folders, so that no listing can point outside the package."""
    if not name or name != Path(name).name or name in BESIDE or name in (INDEX, ".", ".."):
        raise DataError("not a file name of a model package", where=where, got=repr(name[:60]))
    return name


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
