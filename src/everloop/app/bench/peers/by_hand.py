"""What a competent user writes without everloop: FastAPI, pydantic, and ONNX Runtime with one thread. It serves and forgets.

    python by_hand.py PORT MODEL.onnx [async]

FastAPI's documentation asks for a `def` route where the work blocks, as running a model does: it then runs on a thread, and a
slow model holds up nobody. For a model of a few µs, an `async def` route is faster; the second form is that.
"""

from __future__ import annotations

import sys
from typing import Annotated

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
(model_input,) = session.get_inputs()
WIDTH = model_input.shape[1]
label_name = session.get_outputs()[0].name


class PredictRequest(BaseModel):
    features: Annotated[list[float], Field(min_length=WIDTH, max_length=WIDTH)]


class PredictAnswer(BaseModel):
    prediction: int
    model_version: int


app = FastAPI()


def answer(request: PredictRequest) -> PredictAnswer:
    row = np.asarray([request.features], dtype=np.float32)
    labels = session.run([label_name], {model_input.name: row})[0]
    return PredictAnswer(prediction=int(labels[0]), model_version=1)


if sys.argv[3:] == ["async"]:

    @app.post("/v1/models/bc/predict")
    async def predict(request: PredictRequest) -> PredictAnswer:
        return answer(request)

else:

    @app.post("/v1/models/bc/predict")
    def predict(request: PredictRequest) -> PredictAnswer:
        return answer(request)


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
