"""The same Python models as a service of its own: FastAPI behind uvicorn, as one runs it: `fastapi_app.py PORT WORKERS`.

Kind to it: functions that take microseconds run on the event loop as they do in the bridge, and answers are encoded by msgspec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

sys.path.insert(0, str(Path(__file__).parents[1] / "src" / "polyglot"))

import image_classifier
import recommender
import sentiment_model

from everloop.core.errors import InvalidInput

app = FastAPI()


class Sentiment(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)
    options: dict[str, bool] | None = None


class Sentiments(BaseModel):
    texts: list[str] = Field(min_length=1, max_length=100)


class Image(BaseModel):
    image: str | None = None
    image_url: str | None = None
    top_k: int = 5


class Recommend(BaseModel):
    user_id: str
    context: dict[str, Any] | None = None
    limit: int = 10
    exclude: list[str] = []


@app.exception_handler(InvalidInput)
async def invalid(_request: Any, error: InvalidInput) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def encoded(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


@app.post("/sentiment_model/analyze")
async def analyze(asked: Sentiment) -> Response:
    return encoded(sentiment_model.analyze(asked.text, asked.options))


@app.post("/sentiment_model/analyze_batch")
def analyze_batch(asked: Sentiments) -> Response:
    return encoded(sentiment_model.analyze_batch(asked.texts))


@app.post("/image_classifier/classify")
def classify(asked: Image) -> Response:
    return encoded(image_classifier.classify(asked.image, asked.image_url, asked.top_k))


@app.post("/recommender/recommend")
async def recommend(asked: Recommend) -> Response:
    return encoded(recommender.recommend(asked.user_id, asked.context, asked.limit, asked.exclude))


@app.post("/{module}/warmup")
def warmup(module: str) -> None:
    {each.__name__: each for each in (sentiment_model, image_classifier, recommender)}[module].warmup()


if __name__ == "__main__":
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    settings: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
    settings["timeout_keep_alive"] = 75  # longer than its client's: who ends a connection is who asks
    if workers > 1:
        settings |= {"workers": workers, "app_dir": str(Path(__file__).parent)}
    uvicorn.run(app if workers == 1 else "fastapi_app:app", host="127.0.0.1", port=port, **settings)
