"""What a competent user writes without everloop: FastAPI, pydantic, and ONNX Runtime with one thread. It serves and forgets.

    python by_hand.py PORT MODEL.onnx

The route is `async`: the model takes some 10 µs, so FastAPI's thread pool would cost more than it saves.
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


@app.post("/v1/models/bc/predict")
async def predict(request: PredictRequest) -> PredictAnswer:
    row = np.asarray([request.features], dtype=np.float32)
    labels = session.run([label_name], {model_input.name: row})[0]
    return PredictAnswer(prediction=int(labels[0]), model_version=1)


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
