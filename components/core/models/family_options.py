"""`spec.families.<name>.options`, read into the typed options of a family."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from components.core.errors import SpecError
from components.core.spec import Family

T = TypeVar("T")


def read_options(family: Family, *kinds: type[Any]) -> list[Any]:
    """One instance of each dataclass in `kinds`, filled from `family.options`; what is not named keeps its default.

    A field may carry `metadata={"low": .., "high": ..}`: its range, ends included.

    Raises:
        SpecError: An option that none of `kinds` has, of another type, not among the literals, or out of range.
    """
    where = f"families: kind '{family.kind}', options"
    known = {field.name for kind in kinds for field in fields(kind)}
    if unknown := sorted(set(family.options) - known):
        raise SpecError("unknown option", where=where, got=f"'{unknown[0]}'", allowed=", ".join(sorted(known)))
    return [_filled(kind, family.options, where) for kind in kinds]


def _filled(kind: type[T], options: dict[str, Any], where: str) -> T:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in options:
            assert field.default is not MISSING or field.default_factory is not MISSING, f"option {field.name} has no default"
            continue
        value, hint = options[field.name], hints[field.name]
        values[field.name] = _checked(value, hint, f"{where}.{field.name}")
        low, high = field.metadata.get("low"), field.metadata.get("high")
        numbers = values[field.name] if isinstance(values[field.name], tuple) else (values[field.name],)
        if any((low is not None and n < low) or (high is not None and n > high) for n in numbers):
            raise SpecError("out of range", where=f"{where}.{field.name}", got=value, allowed=f"{low} to {high}")
    return kind(**values)


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint`: bool, int, float, a Literal of strings, str, a tuple of whole numbers or of words."""
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise SpecError("not allowed", where=where, got=repr(value), allowed="true, false")
    if hint is str or hint == tuple[str, ...]:
        if isinstance(value, str) if hint is str else (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
            return value if hint is str else tuple(value)
        raise SpecError("not allowed", where=where, got=repr(value), allowed="a word" if hint is str else "a list of words")
    if get_args(hint) and all(isinstance(arg, str) for arg in get_args(hint)):
        if value in get_args(hint):
            return value
        raise SpecError("not allowed", where=where, got=repr(value), allowed=", ".join(get_args(hint)))
    if get_origin(hint) is tuple:
        if isinstance(value, list) and value and all(isinstance(v, int | float) and float(v).is_integer() for v in value):
            return tuple(int(v) for v in value)
        raise SpecError("not allowed", where=where, got=repr(value), allowed="a list of whole numbers")
    if isinstance(value, int | float) and not isinstance(value, bool) and (hint is float or float(value).is_integer()):
        return hint(value)
    raise SpecError("not allowed", where=where, got=repr(value), allowed="a whole number" if hint is int else "a number")
