"""From what a user calls a model to a verified package folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from components.core import registry
from components.core.errors import DataError, GateError, ServiceError, SpecError
from components.core.home import home
from components.core.package import SYNTHETIC, ModelPackage
from components.core.storage import open_store
from pipelines import catalog


def fetch(model: str, *, allow_synthetic: bool) -> Path:
    """A folder with the model package, every hash of it checked; a registered one also against the digest in the registry.

    Args:
        model: A package folder; a URI of the store; `name@alias`; `name:version`; or a disease, which means its champion and, with
            `allow_synthetic` and no champion, the newest synthetic candidate.

    Raises:
        SpecError: No such model. GateError: There is only a synthetic one. DataError: The package was changed.
    """
    if (Path(model) / "package.json").exists():
        return Path(model).absolute()
    if "://" in model:
        return _download(model, digest=None, allow_synthetic=allow_synthetic)
    if match := re.fullmatch(r"(?P<name>[\w./-]+)(?:@(?P<alias>[\w-]+)|:(?P<version>\d+))", model):
        found = registry.find(match["name"], alias=match["alias"], version=match["version"])
    elif model in catalog.names():
        found = _of_disease(model, allow_synthetic)
    else:
        raise SpecError("no such model", where="MODEL", got=f"'{model}'", allowed="a disease, name@alias, name:version, a package folder or its URI")
    return _download(found.uri, digest=found.digest, allow_synthetic=allow_synthetic)


def _of_disease(disease: str, allow_synthetic: bool) -> registry.Version:
    try:
        return registry.find(disease, alias="champion")
    except (SpecError, GateError, ServiceError):
        if not allow_synthetic:
            raise
    return registry.find(f"{SYNTHETIC}{disease}", alias="candidate")


def _download(uri: str, *, digest: str | None, allow_synthetic: bool) -> Path:
    """The package from the store, kept under its digest's name; `registration.json` stands beside the hashed files, so it comes by itself."""
    store = open_store()
    target = home() / "packages" / re.sub(r"[^\w.-]", "-", uri)[-120:]
    if not (target / "package.json").exists():
        store.get_folder(uri, target)
        key = f"{store.key_of(uri)}/registration.json"
        if store.exists(key):
            store.get_file(key, target / "registration.json")
    try:
        ModelPackage.open(target, allow_synthetic=allow_synthetic, digest=digest)
    except DataError:
        import shutil

        shutil.rmtree(target, ignore_errors=True)  # what is damaged here may be whole in the store
        raise
    return target
