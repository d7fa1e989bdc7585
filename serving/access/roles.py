"""Which role a request needs. Roles do not contain each other: who runs the platform has no business in patients' images, and the other way round.

reader     asks the models and reads studies: predict, infer, explain, the reading page
operator   sees how the service does: metrics, states and metadata of models
admin      replaces models: the repository verbs; sees what an operator sees
"""

from __future__ import annotations

import re

READER, OPERATOR, ADMIN = "reader", "operator", "admin"
ROLES = (READER, OPERATOR, ADMIN)
OPEN: frozenset[str] = frozenset()
"""No role needed: what an orchestrator probes without a token."""
ANY = frozenset(ROLES)

_RULES: tuple[tuple[re.Pattern[str], frozenset[str], str], ...] = tuple(
    (re.compile(pattern), roles, action)
    for pattern, roles, action in (
        (r"/|/v2/health/(live|ready)", OPEN, "probe"),
        (r"/read/(login|static/[\w.-]+)", OPEN, "login"),
        (r"/v1/models/[^/]+:predict|/v2/models/[^/]+(/versions/[^/]+)?/infer", frozenset({READER}), "predict"),
        (r"/v1/models/[^/]+:explain|/v2/models/[^/]+(/versions/[^/]+)?/explain", frozenset({READER}), "explain"),
        (r"/read(/.*)?", frozenset({READER}), "read"),
        (r"/metrics", frozenset({OPERATOR, ADMIN}), "metrics"),
        (r"/v2/repository/index", frozenset({OPERATOR, ADMIN}), "models"),
        (r"/v2/repository/.*", frozenset({ADMIN}), "replace"),
    )
)
_MODEL = re.compile(r"/v[12]/models/([a-z0-9-]{1,63})(?:[:/].*)?")


def needed(path: str) -> tuple[frozenset[str], str]:
    """The roles of which a request needs one (empty: none), and what it is called in the audit log."""
    for pattern, roles, action in _RULES:
        if pattern.fullmatch(path):
            return roles, action
    return ANY, "look"


def model_in(path: str) -> str | None:
    """The name of a model in a path; only a caller that knows the models may keep it: a client can write anything there."""
    match = _MODEL.fullmatch(path)
    return match[1] if match else None
