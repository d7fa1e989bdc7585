"""What is wrong in a spec, said in the house's words: where, got, allowed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from components.core.errors import SpecError


def first(error: ValidationError, model: type[BaseModel], where: str) -> SpecError:
    """pydantic's first finding in the house's words: what, where, got, allowed."""
    finding = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in finding["loc"])
    got: object = finding.get("input")
    kind = finding["type"]
    if kind == "extra_forbidden":
        known = sorted(_keys_at(model, finding["loc"][:-1]))
        return SpecError("unknown key", where=f"{where}: {key}", got=f"'{finding['loc'][-1]}'", allowed=", ".join(known))
    if kind == "missing":
        return SpecError("missing key", where=f"{where}: {key}", allowed="a value is required")
    if kind == "value_error":  # our own checks say "key|got|allowed"
        name, found, allowed = str(finding.get("ctx", {}).get("error", "||")).split("|", 2)
        return SpecError("not allowed", where=f"{where}: {'.'.join(filter(None, (key, name)))}", got=found, allowed=allowed)
    if isinstance(got, dict | list) and len(str(got)) > 60:
        got = type(got).__name__
    return SpecError("not allowed", where=f"{where}: {key}", got=repr(got), allowed=finding["msg"].removeprefix("Input should be "))


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Field names of the (nested) part that `location` points into."""
    current: Any = model
    for part in location:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        annotation: Any = current.model_fields[part].annotation if part in current.model_fields else current
        models = [a for a in _flatten(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        current = models[0] if models else current
    return set(current.model_fields)


def _flatten(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation] + [leaf for arg in inner for leaf in _flatten(arg)]
