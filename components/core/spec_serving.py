"""Parts of a spec that say how its model is asked: when it gives no decision, and which arithmetic may stand in for the measured one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.core.acquisition import NUMBERS

Precision = Literal["bf16", "int8"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Abstain(_Part):
    """When there is no decision although the model could give one.

    Args:
        outside: How far from the samples of training and test one may lie, in multiples of the limit that registration learned from them
            (`components/core/outside.py`); 0 switches it off.
        unseen_device: Whether a device that is not in the reference gets no decision, also where no profile of it is needed.
        acquisition: Parameter of `components/core/acquisition.py` that is a number -> lowest and highest value that the model is meant for; what a
            sample does not declare is not judged.
    """

    outside: Annotated[float, Field(ge=0, le=100)] = 1.0
    unseen_device: bool = False
    acquisition: dict[str, tuple[float, float]] = {}

    @model_validator(mode="after")
    def _limits(self) -> Abstain:
        if strange := sorted(set(self.acquisition) - set(NUMBERS)):  # a limit of that name would never be asked for
            raise ValueError(f"acquisition|{strange}|{', '.join(NUMBERS)}")
        for name, (low, high) in self.acquisition.items():
            if low > high:
                raise ValueError(f"acquisition.{name}|{[low, high]}|[low, high] with low <= high")
        return self


class Engine(_Part):
    """Which arithmetic a model is registered in, which below float32 is tried, and how much it may change on validation to be accepted.

    Args:
        precision: What servers compute in, whatever node they run on: `f32`, or one of `precisions` if registration accepts it, else `f32`.
        precisions: `bf16` needs a processor that computes in it; `int8` is quantised with training samples.
        auc_change: Largest loss of AUC.
        decision_change: Largest share of decisions that differ.
    """

    precision: Literal["f32", "bf16", "int8"] = "f32"
    precisions: tuple[Precision, ...] = ("bf16",)
    auc_change: Annotated[float, Field(ge=0, le=0.1)] = 0.002
    decision_change: Annotated[float, Field(ge=0, le=0.1)] = 0.005

    @model_validator(mode="after")
    def _tried(self) -> Engine:
        if self.precision != "f32" and self.precision not in self.precisions:
            raise ValueError(f"precision|{self.precision}|f32, or one of engine.precisions")
        return self
