"""A custom runtime for MLServer; `model-settings.json` names it."""

from __future__ import annotations

from typing import Any

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceResponse
from session import Session


class Plain(MLModel):
    async def load(self) -> bool:
        self.session = Session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: Any) -> InferenceResponse:
        import numpy as np

        bodies = Base64Codec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", np.array(self.session(*bodies)))])
