"""The operations of the routes that people ask without knowing models: their part of the table of `http.operations`."""

from __future__ import annotations

from everloop.api import questions
from everloop.api.http.operation import ASKING, Operation
from everloop.api.showcase import ShownModels
from everloop.showcase.answers import ImageAnswer, RecommendAnswer, SentimentAnswer, SentimentsAnswer

_REFUSALS = (
    "not_supported",
    "model_untrained",
    "model_failed",
    "overloaded",
    "deadline_exceeded",
    "version_not_found",
    "conflict",
    "store_unavailable",
)
SHOWCASE: tuple[Operation, ...] = (
    Operation(
        "predict_sentiment",
        "POST",
        "/api/predict/sentiment",
        "showcase",
        "Whether a text is positive, negative or neutral, and how sure that is.",
        body=questions.SentimentAsked,
        example={"text": "This is amazing!", "options": {"detailed": False}},
        answer=SentimentAnswer,
        refusals=_REFUSALS,
        parameters=ASKING,
        role="sentiment",
        scope="predict",
    ),
    Operation(
        "predict_batch",
        "POST",
        "/api/predict/batch",
        "showcase",
        "The same of several texts together, answered in their order by one version.",
        body=questions.BatchAsked,
        example={"texts": ["Great product!", "Terrible service"], "model": "sentiment"},
        answer=SentimentsAnswer,
        refusals=_REFUSALS,
        parameters=ASKING,
        role="sentiment",
        scope="predict",
    ),
    Operation(
        "predict_image",
        "POST",
        "/api/predict/image",
        "showcase",
        "What an image shows: a file in base64 or as an upload, or a URL where the server fetches those.",
        body=questions.ImageAsked,
        example={"image_url": "https://example.com/cat.jpg", "top_k": 5},
        answer=ImageAnswer,
        refusals=(*_REFUSALS, "missing_extra"),
        parameters=ASKING,
        role="image",
        uploads=True,
        scope="predict",
    ),
    Operation(
        "predict_recommend",
        "POST",
        "/api/predict/recommend",
        "showcase",
        "What a user may like, or what is like an item, with the reason.",
        body=questions.RecommendAsked,
        example={"user_id": "user123", "context": {"category": "tech"}, "limit": 10},
        answer=RecommendAnswer,
        refusals=_REFUSALS,
        parameters=ASKING,
        role="recommender",
        scope="predict",
    ),
    Operation(
        "shown_models",
        "GET",
        "/api/models",
        "showcase",
        "The models, whether they answer, and which of these routes ask them.",
        answer=ShownModels,
        scope="own",
    ),
)
