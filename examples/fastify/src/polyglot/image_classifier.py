"""What is on an image: everloop's built-in digits, or the artifact that IMAGE_MODEL names (`everloop image pack` makes them).

Images are fetched from URLs only with IMAGE_URLS=1, and then from the public internet only."""

from __future__ import annotations

import os
from typing import Any

from everloop.core.errors import NotSupported
from everloop.showcase import ImageClassifier
from everloop.showcase.config import ShowcaseConfig

_config = ShowcaseConfig(image_urls=os.environ.get("IMAGE_URLS") == "1")
_model = ImageClassifier(os.environ.get("IMAGE_MODEL") or None, config=_config)


def classify(image: bytes | str | None = None, image_url: str | None = None, top_k: int = 5) -> Any:
    """`image`: a file's bytes, or base64."""
    if image_url is not None and not _config.image_urls:
        raise NotSupported(
            "image_url: this server fetches nothing from URLs: send the file as image, in base64 or in a form; whoever runs the "
            "server can allow it, IMAGE_URLS=1",
            field="image_url",
        )
    return _model.classify(image, image_url, top_k)


def warmup() -> None:
    _model.warmup()


def get_info() -> dict[str, Any]:
    return _model.get_info()
