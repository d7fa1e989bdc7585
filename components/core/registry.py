"""The model registry, as the rest of dxflow sees it: MLflow holds names, versions, aliases and tags; the bytes stay in the store.

A package name is `<disease>` or `synthetic/<disease>`. MLflow refuses "/" in names, so `synthetic/x` is `synthetic.x` there; a disease
has no dot in its name, so the two never meet. `champion` is the one alias that serving takes without being asked.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.core import registry_file
from components.core.disk_errors import of_disk
from components.core.errors import GateError, ServiceError, SpecError
from components.core.home import tracking_uri
from components.core.package import SYNTHETIC

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"


@dataclass(frozen=True)
class Version:
    """One registered package.

    Args:
        uri: Of the package in the store.
        digest: Of the package.
        verdict: `pass`, `fail` or `insufficient evidence`, with its reasons.
    """

    name: str
    version: str
    uri: str
    digest: str
    verdict: str
    reasons: str
    synthetic: bool
    aliases: tuple[str, ...]


def mlflow_name(name: str) -> str:
    """The package name as MLflow takes it."""
    return name.replace("/", ".")


def package_name(registered: str) -> str:
    """The inverse of `mlflow_name`."""
    return registered.replace(".", "/")


def client() -> MlflowClient:
    """A client of `home.tracking_uri()`. Raises ServiceError when there is no registry to talk to."""
    import logging
    import os

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default waits for minutes on a server that is away
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # MLflow reports its use to its makers unless told not to, before the import
        os.environ[name] = "true"
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    address = tracking_uri()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(address)
    if given is None:  # MLflow writes the address there, where it would win over a later DXFLOW_HOME
        os.environ.pop("MLFLOW_TRACKING_URI", None)

    def opened(at: str) -> MlflowClient:
        return MlflowClient(tracking_uri=at, registry_uri=at)

    try:
        with registry_file.whole(address, opened):
            return opened(address)
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError) as error:
        raise of_disk(error, where="the model registry") or ServiceError(
            "cannot open the model registry", where="MLFLOW_TRACKING_URI", got=_without_password(address)
        ) from None


def register(
    name: str, *, uri: str, digest: str, verdict: str, reasons: list[str], synthetic: bool, tags: dict[str, str], alias: str | None
) -> Version:
    """Register a package once: the same digest gets the version it already has.

    Args:
        alias: `champion` or `candidate`, moved to this version; None moves nothing.

    Raises:
        GateError: `champion` asked for a synthetic model, or for one that did not pass.
        ServiceError: The registry is away.
    """
    if alias == CHAMPION and (synthetic or verdict != "pass" or name.startswith(SYNTHETIC)):
        raise GateError(
            "may not be champion", where=f"model {name}", got=f"verdict '{verdict}', synthetic {synthetic}", allowed="real data and 'pass'"
        )
    from mlflow.exceptions import MlflowException

    registered = mlflow_name(name)
    all_tags = {"verdict": verdict, "digest": digest, "reasons": "; ".join(reasons)[:4900], "synthetic": str(synthetic).lower(), **tags}
    try:
        api = client()
        try:
            api.create_registered_model(registered, tags={"synthetic": str(synthetic).lower()})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = next((v for v in _search(api, registered) if v.tags.get("digest") == digest), None)
        if found is None:
            # A registry server refuses local paths as a source, also where everybody mounts the same folder.
            source = f"dxflow://store/{digest}" if uri.startswith("file:") and tracking_uri().startswith("http") else uri
            found = api.create_model_version(registered, source=source, tags=all_tags | ({"uri": uri} if source != uri else {}))
        elif (found.tags.get("uri") or found.source) != uri:  # the store has moved: the version stays, and says where its package is now
            api.set_model_version_tag(registered, found.version, "uri", uri)
        if alias:
            api.set_registered_model_alias(registered, alias, found.version)
        return _version(api, api.get_model_version(registered, found.version))
    except (MlflowException, OSError) as error:
        raise _away(error) from None


def replace(name: str, version: str, *, uri: str, digest: str) -> None:
    """Let a version be another package, which says the same without somebody's data. A kill between the two tags is mended by doing it again."""
    tag(name, version, {"uri": uri, "digest": digest})


def tag(name: str, version: str, tags: dict[str, str]) -> None:
    """Add tags to a version, or change them. Raises ServiceError when the registry is away."""
    from mlflow.exceptions import MlflowException

    try:
        api = client()
        for key, value in tags.items():
            api.set_model_version_tag(mlflow_name(name), version, key, value)
    except (MlflowException, OSError) as error:
        raise _away(error) from None


def versions(name: str) -> list[Version]:
    """All versions of a package name, newest first; empty when there is none."""
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"[a-z0-9/-]+", name):  # goes into MLflow's query language
        return []
    try:
        api = client()
        return [_version(api, v) for v in _search(api, mlflow_name(name))]
    except (MlflowException, OSError) as error:
        raise _away(error) from None


def names() -> list[str]:
    """All package names, sorted."""
    from mlflow.exceptions import MlflowException

    try:
        return sorted(package_name(model.name) for model in client().search_registered_models(max_results=1000))
    except (MlflowException, OSError) as error:
        raise _away(error) from None


def find(name: str, *, alias: str | None = None, version: str | None = None) -> Version:
    """One registered package, by alias or version; with neither, the champion.

    Raises:
        SpecError: No such model, alias or version; lists what there is.
        GateError: The model exists but none of its versions earned `champion`; says why for the newest.
    """
    alias = alias or (None if version else CHAMPION)
    if alias and not version and (found := _by_alias(name, alias)):
        return found
    known = versions(name)
    if not known:
        raise SpecError("no such model", where="registry", got=f"'{name}'", allowed=", ".join(names()) or "none is registered")
    for candidate in known:
        if (version and candidate.version == str(version)) or (alias and alias in candidate.aliases):
            return candidate
    newest = known[0]
    if alias == CHAMPION:
        raise GateError(f"no champion: version {newest.version} is '{newest.verdict}'", where=f"model {name}", got=newest.reasons or "synthetic data")
    held = sorted({f"@{a}" for v in known for a in v.aliases}) + [f":{v.version}" for v in known]
    raise SpecError("no such version", where=f"model {name}", got=f"@{alias}" if alias else f":{version}", allowed=", ".join(held))


def _by_alias(name: str, alias: str) -> Version | None:
    """The version with that alias, in one look: looking at one version after the other misses an alias that moves meanwhile."""
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"[a-z0-9/-]+", name):
        return None
    try:
        api = client()
        return _version(api, api.get_model_version_by_alias(mlflow_name(name), alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise _away(error) from None
    except OSError as error:
        raise _away(error) from None


def resolve(name: str, alias: str | None = None, version: str | None = None) -> str:
    """The store's URI of a registered package; see `find`."""
    return find(name, alias=alias, version=version).uri


def _search(api: MlflowClient, registered: str) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = api.search_model_versions(f"name='{registered}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: -int(v.version))


def _version(api: MlflowClient, raw: Any) -> Version:
    aliases = tuple(sorted(a for a, v in api.get_registered_model(raw.name).aliases.items() if str(v) == str(raw.version)))
    tags = raw.tags
    return Version(
        package_name(raw.name),
        str(raw.version),
        tags.get("uri") or raw.source,
        tags.get("digest", ""),
        tags.get("verdict", "unknown"),
        tags.get("reasons", ""),
        tags.get("synthetic") == "true",
        aliases,
    )


def _away(error: Exception) -> ServiceError:
    """What to tell: the address and the kind of failure; MLflow's own message may quote a whole response."""
    return of_disk(error, where="the model registry") or ServiceError(
        f"the model registry failed ({getattr(error, 'error_code', type(error).__name__)})", where=_without_password(tracking_uri())
    )


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", address)
