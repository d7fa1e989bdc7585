"""One name in the IR for one component, wherever the graph uses it.

kfp names a component after its task, and tasks are counted through: train inside a loop becomes `comp-train-2` beside `comp-train`. The name is
part of the local cache's key, so the same training would be done twice there; on a cluster the key has no name. Twins lose their number here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


def merge_twins(path: Path) -> None:
    """Rewrite the IR where two components are the same but for their names; other files stay as they are, byte for byte."""
    text = path.read_text(encoding="utf-8")
    documents = [d for d in yaml.safe_load_all(text) if d]
    if not (renamed := twins(documents)):
        return
    ir, *others = documents
    for component in [ir["root"], *ir["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            name = task["componentRef"]["name"]
            task["componentRef"]["name"] = renamed.get(name, name)
    for name in renamed:
        label = ir["components"].pop(name)["executorLabel"]
        for executors in (ir["deploymentSpec"]["executors"], *_on_platforms(others)):
            executors.pop(label, None)
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    path.write_text(head + yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True), encoding="utf-8")


def twins(documents: list[dict[str, Any]]) -> dict[str, str]:
    """{numbered name: name} of components that take, give, run and ask of a platform the same."""
    ir, *others = documents
    components = ir["components"]

    def facts(name: str) -> tuple[Any, ...]:
        rest = dict(components[name])
        label = rest.pop("executorLabel", None)
        return rest, ir["deploymentSpec"]["executors"].get(label), [executors.get(label) for executors in _on_platforms(others)]

    numbered = {name: re.sub(r"-\d+$", "", name) for name, component in components.items() if "executorLabel" in component}
    return {name: plain for name, plain in numbered.items() if plain != name and plain in components and facts(name) == facts(plain)}


def _on_platforms(others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [platform["deploymentSpec"]["executors"] for d in others for platform in d.get("platforms", {}).values()]
