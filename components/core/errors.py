"""The errors a user can meet, as one tree by who can fix them.

    DxflowError          exit 2, one line: what, where, got, allowed
    |- SpecError         the disease's .toml, or an option
    |- DataError         the input data
    |- GateError         the model: it did not earn its place
    '- ServiceError      the deployment: a store, a registry, a port

Anything else that escapes is a defect of dxflow: it exits 1, naming the place but never a value, because a value may be patient data.
"""

from __future__ import annotations


class DxflowError(Exception):
    """One line that a user can act on.

    Args:
        what: The relation that broke, as a sentence without its full stop.
        where: File and key, row, or step.
        got: What was found. Never patient data: pass a hash, a count or a type instead.
        allowed: What would be accepted.
    """

    def __init__(self, what: str, *, where: str | None = None, got: object = None, allowed: object = None) -> None:
        self.what, self.where, self.got, self.allowed = what, where, got, allowed
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.got is not None:
            text += f"; got {self.got}"
        if self.allowed is not None:
            text += f"; allowed: {self.allowed}"
        return " ".join(text.split())

    def to_dict(self) -> dict[str, str]:
        """The error as it crosses a process boundary: `kind` and `text`."""
        return {"kind": type(self).__name__, "text": str(self)}


class SpecError(DxflowError):
    """The disease's .toml or a command-line option is wrong."""


class DataError(DxflowError):
    """The input data is wrong."""


class GateError(DxflowError):
    """The model did not pass a gate of its spec."""


class ServiceError(DxflowError):
    """A service the platform needs is absent or refuses."""


KINDS: dict[str, type[DxflowError]] = {kind.__name__: kind for kind in (SpecError, DataError, GateError, ServiceError)}
