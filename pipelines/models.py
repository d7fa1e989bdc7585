"""From what a user calls a model to a verified package folder on this machine; and, for servers, how to ask again."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.core import registration, registry
from components.core.atomic import write_text
from components.core.errors import DataError, GateError, ServiceError, SpecError
from components.core.home import home
from components.core.package import SYNTHETIC, ModelPackage
from components.core.storage import Store, open_store
from pipelines import catalog
from serving.sources import Source, from_folder


def fetch(model: str, *, allow_synthetic: bool) -> Path:
    """A folder with the model package, every hash of it checked; a registered one also against the digest in the registry.

    Args:
        model: A package folder; a URI of the store; `name@alias`; `name:version`; or a disease, which means its champion and, with
            `allow_synthetic` and no champion, the newest synthetic candidate.

    Raises:
        SpecError: No such model. GateError: There is only a synthetic one. DataError: The package was changed.
    """
    if (folder := _folder(model)) is not None:
        return folder
    if "://" in model:
        return _download(model, digest=None, allow_synthetic=allow_synthetic)
    found = _registered(model, allow_synthetic)
    return _download(found.uri, digest=found.digest, allow_synthetic=allow_synthetic, version=found.version)


def source(model: str, *, allow_synthetic: bool) -> Source:
    """`model`, named as for `fetch`, for a server that asks for it again when its alias may have moved, its folder been replaced.

    Nothing is looked up yet: errors come when the source is asked.
    """
    path = unquote(urlsplit(model).path) if model.startswith("file://") else model
    if model.startswith("file://") or Path(model).is_dir():
        return from_folder(path)

    def current() -> str | None:
        return None if "://" in model else _registered(model, allow_synthetic).digest

    # s3://bucket/packages/models/<disease>/<digest>
    words = model.rstrip("/").split("/")[-2:] if "://" in model else [model]
    name = re.split(r"[@:]", words[0].removeprefix(SYNTHETIC))[0]
    return Source(model, name, current, lambda: fetch(model, allow_synthetic=allow_synthetic))


def _folder(model: str) -> Path | None:
    """A package folder by its path or as a file:// URI; None for anything else."""
    folder = Path(unquote(urlsplit(model).path) if model.startswith("file://") else model)
    return folder.absolute() if (folder / "package.json").exists() else None


def _registered(model: str, allow_synthetic: bool) -> registry.Version:
    if match := re.fullmatch(r"(?P<name>[\w./-]+)(?:@(?P<alias>[\w-]+)|:(?P<version>\d+))", model):
        return registry.find(match["name"], alias=match["alias"], version=match["version"])
    if model in catalog.names():
        return _of_disease(model, allow_synthetic)
    raise SpecError("no such model", where="MODEL", got=f"'{model}'", allowed="a disease, name@alias, name:version, a package folder or its URI")


def _of_disease(disease: str, allow_synthetic: bool) -> registry.Version:
    try:
        return registry.find(disease, alias="champion")
    except (SpecError, GateError, ServiceError) as error:
        if not allow_synthetic:
            if isinstance(error, SpecError) and f"{SYNTHETIC}{disease}" in registry.names():
                raise GateError("trained on synthetic data only", where=f"model {disease}", allowed="--allow-synthetic, to try things out") from None
            raise
    return registry.find(f"{SYNTHETIC}{disease}", alias="candidate")


def _store_of(uri: str) -> Store:
    """The store, or where another one's URI leads: the folder above the package."""
    store = open_store()
    own = "://" not in uri or uri.startswith(f"{store.uri}/")
    return store if own else open_store(uri.rstrip("/").rpartition("/")[0])


def _download(uri: str, *, digest: str | None, allow_synthetic: bool, version: str | None = None) -> Path:
    """The package from the store, kept under its digest's name; `registration.json` stands beside the hashed files, so it comes by itself.

    One process at a time: those of one server all see that an alias has moved, and would take each other's half-fetched folder for a whole one.
    """
    packages = home() / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    with open(packages / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _downloaded(packages / re.sub(r"[^\w.-]", "-", uri)[-120:], uri, digest, allow_synthetic, version)


def _downloaded(target: Path, uri: str, digest: str | None, allow_synthetic: bool, version: str | None) -> Path:
    store = _store_of(uri)
    if not (target / "package.json").exists():
        store.get_folder(uri, target)
        key = f"{store.key_of(uri)}/{registration.NAME}"
        if store.exists(key):
            store.get_file(key, target / registration.NAME)
    try:
        if version and digest:
            _as_registered(target, version, digest, uri)
        ModelPackage.open(target, allow_synthetic=allow_synthetic, digest=digest)
    except DataError:
        import shutil

        shutil.rmtree(target, ignore_errors=True)  # what is damaged here may be whole in the store
        raise
    return target


def _as_registered(target: Path, version: str, digest: str, uri: str) -> None:
    """Let the registry's word stand in the folder: the alias moves a moment before the file is written, and the store's copy may be changed."""
    try:
        found = registration.read(target, digest)
    except DataError:
        found = {}
    if found.get("version") != version:
        write_text(target / registration.NAME, registration.text({**found, "version": version, "digest": digest, "uri": uri}))
