"""Validate custom resources against the `openAPIV3Schema` of their definitions, with unknown fields refused."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def folder() -> Path:
    """Where the definitions are: `DXFLOW_CRDS`, else beside the repository. Skips when they are not there."""
    path = Path(os.environ.get("DXFLOW_CRDS") or ROOT.parent / "shared" / "crds")
    if not path.is_dir():
        pytest.skip(f"no custom resource definitions at {path}; set DXFLOW_CRDS")
    return path


@cache
def validator(file: str, version: str) -> Any:
    """A validator of one version of one definition."""
    import jsonschema

    definition = yaml.load((folder() / file).read_text(encoding="utf-8"), Loader=Loader)
    schema = next(v for v in definition["spec"]["versions"] if v["name"] == version)["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(closed(schema))


def closed(schema: Any) -> Any:
    """The schema with every object of known properties closed, and Kubernetes' own words put into JSON Schema's."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: closed(value) for key, value in schema.items() if key not in ("properties", "default", "description", "format")}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["type"] = ["integer", "string"]
    if "properties" in schema:
        out["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            out["additionalProperties"] = False
    return out


def errors(manifest: dict[str, Any], file: str, version: str) -> list[str]:
    """What the schema has against a manifest: path and message."""
    found = validator(file, version).iter_errors(manifest)
    return sorted(f"{'.'.join(str(p) for p in error.absolute_path)}: {error.message[:200]}" for error in found)
