"""Parts of a spec that say how its model is asked: when it gives no decision, and which arithmetic may stand in for the measured one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Precision = Literal["bf16", "int8"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Abstain(_Part):
    """When there is no decision although the model could give one.

    Args:
        outside: How far from the samples of training and test one may lie, in multiples of the limit that registration learned from them
            (`components/core/outside.py`); 0 switches it off.
        unseen_device: Whether a device that is not in the reference gets no decision, also where no profile of it is needed.
        acquisition: `acq_*` parameter -> lowest and highest value that the model is meant for; what a sample does not declare is not judged.
    """

    outside: Annotated[float, Field(ge=0, le=100)] = 1.0
    unseen_device: bool = False
    acquisition: dict[Annotated[str, Field(pattern=r"^acq_[a-z0-9_]{1,40}$")], tuple[float, float]] = {}

    @model_validator(mode="after")
    def _limits(self) -> Abstain:
        for name, (low, high) in self.acquisition.items():
            if low > high:
                raise ValueError(f"acquisition.{name}|{[low, high]}|[low, high] with low <= high")
        return self


class Engine(_Part):
    """Which arithmetic below float32 is tried at registration, and how much it may change on validation to be accepted.

    Args:
        precisions: `bf16` needs a processor that computes in it; `int8` is quantised with training samples.
        auc_change: Largest loss of AUC.
        decision_change: Largest share of decisions that differ.
    """

    precisions: tuple[Precision, ...] = ("bf16",)
    auc_change: Annotated[float, Field(ge=0, le=0.1)] = 0.002
    decision_change: Annotated[float, Field(ge=0, le=0.1)] = 0.005
