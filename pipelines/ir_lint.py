"""Refuses IR that the local runner and the cluster would treat differently, or that would not be safe to run.

Each rule stands for a measured difference of kfp 2.17 (`docs/decisions/0001-one-graph-one-ir.md`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.core.errors import SpecError

SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|private_key|access_key", re.IGNORECASE)


def lint(path: Path) -> None:
    """Raise SpecError with the first finding and the number of the others."""
    documents = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]
    found = list(findings(documents[0]))
    if found:
        more = f" (+{len(found) - 1} more)" if len(found) > 1 else ""
        raise SpecError(f"{found[0]}{more}", where=f"IR of {documents[0].get('pipelineInfo', {}).get('name', path.name)}")


def findings(ir: dict[str, Any]) -> Iterator[str]:
    """Every construct that runs differently in the two places, in words."""
    over = set(_looped_over(ir))
    for name, component in {"root": ir.get("root", {}), **ir.get("components", {})}.items():
        for parameter, kind in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if kind.get("parameterType") in ("STRUCT", "LIST") and (name, parameter) not in over:
                yield f"{name}: parameter '{parameter}' is a {kind['parameterType']}: integers become floats on the way; pass a JSON string"
            if SECRET_NAME.search(parameter):
                yield f"{name}: parameter '{parameter}' looks like a secret: parameters are logged; use the environment"
        dag = component.get("dag", {})
        for task_name, task in dag.get("tasks", {}).items():
            place = f"{name}.{task_name}"
            if "condition" in task.get("triggerPolicy", {}):
                yield f"{place}: a condition that fails to evaluate counts as false locally; decide inside a step"
            if "parameterIterator" in task or "artifactIterator" in task:
                inner = ir.get("components", {}).get(task.get("componentRef", {}).get("name", ""), {})
                if any("parameterIterator" in t or "artifactIterator" in t for t in inner.get("dag", {}).get("tasks", {}).values()):
                    yield f"{place}: a ParallelFor directly in a ParallelFor fails locally; put the inner one into a nested pipeline"
            for selector in task.get("inputs", {}).get("artifacts", {}).values():
                if "taskOutputArtifact" in selector and "oneof" in str(selector["taskOutputArtifact"].get("outputArtifactKey", "")).lower():
                    yield f"{place}: OneOf on artifacts fails locally"
    for name, executor in ir.get("deploymentSpec", {}).get("executors", {}).items():
        container = executor.get("container")
        if container is None:
            yield f"{name}: importer or resolver: only plain local paths work locally; read the source inside ingest"
            continue
        command = json.dumps(container.get("command", []) + container.get("args", []))
        if "kfp.dsl.executor_main" not in command:
            yield f"{name}: a container component does not run in the local SubprocessRunner"
        if "pip install" in command:
            yield f"{name}: installs packages at run time: they belong into the image"
        if ":" not in container.get("image", "").rsplit("/", 1)[-1]:
            yield f"{name}: image '{container.get('image')}' has no tag or digest: a code change would be answered from the cache"


def _looped_over(ir: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(component, parameter) of every list that a ParallelFor runs over and that a step gave: its items reach the steps one by one."""
    for component in [ir.get("root", {}), *ir.get("components", {}).values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            if listed := task.get("parameterIterator", {}).get("items", {}).get("inputParameter"):
                yield task.get("componentRef", {}).get("name", ""), listed
