"""SHOW: sentiment, images and recommendations by ordinary models, with no privileges.

What is here knows how a question (a text, an image, a user) becomes the tensors that such a model takes, and how its tensors become the
answer that people read. The API's routes and programs without a server ask by the same functions.

answers       the shapes of the answers, for the routes and for programs
shaping       from tensors to answers
builtin       the models that come with everloop, by name
config        how the routes ask
sentiment     texts
images        images, from bytes, base64 or (`fetching`) a URL
recommender   users, items and what they did, from files of `interactions`

For programs without a server: `SentimentModel`, `ImageClassifier`, `Recommender`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.showcase.images import ImageClassifier
    from everloop.showcase.recommender import Recommender
    from everloop.showcase.sentiment import SentimentModel

_HOMES = {
    "ImageClassifier": "everloop.showcase.images",
    "Recommender": "everloop.showcase.recommender",
    "SentimentModel": "everloop.showcase.sentiment",
}

__all__ = ["ImageClassifier", "Recommender", "SentimentModel"]


def __getattr__(name: str) -> Any:
    """Loaded when somebody first asks: a server that shows texts loads nothing for images."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop.showcase' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
