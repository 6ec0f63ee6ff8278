"""How the routes `/api/predict/…` ask: which models stand behind them, how much they take, whether they fetch images from URLs."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.core.errors import InvalidInput


@dataclass(frozen=True)
class ShowcaseConfig:
    """Raises InvalidInput naming the field."""

    builtin: bool = False
    """Whether the server serves the built-in models under the names below, where nobody named others. The flag `--showcase`."""
    sentiment: str = "sentiment"
    """The model behind `/api/predict/sentiment`, and behind `/api/predict/batch` where the request names none."""
    image: str = "image"
    """The model behind `/api/predict/image`."""
    recommender: str = "recommender"
    """The model behind `/api/predict/recommend`."""
    max_text: int = 10_000
    """Characters of one text; a model refuses more than 10,000 itself, unless its artifact says otherwise."""
    max_texts: int = 100
    """Texts of one batch."""
    max_top_k: int = 1000
    """Classes of one image's answer."""
    max_items: int = 1000
    """Recommendations of one answer, and items that it may be told to leave out."""
    image_urls: bool = False
    """Whether the server fetches images from URLs that callers give; what is not on the public internet is refused all the same."""
    url_max_bytes: int = 10 << 20
    """Bytes of an image that is fetched."""
    url_timeout_sec: float = 5.0
    """Seconds within which it has to have come, redirects among them."""
    url_redirects: int = 3
    """How often a URL may lead to another one."""

    def __post_init__(self) -> None:
        for name in ("max_text", "max_texts", "max_top_k", "max_items", "url_max_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name}: expected a whole number of at least 1, got {value!r}", field=name)
        if not isinstance(self.url_redirects, int) or self.url_redirects < 0:
            raise InvalidInput(
                f"url_redirects: expected a whole number of at least 0, got {self.url_redirects!r}",
                field="url_redirects",
            )
        if not 0 < self.url_timeout_sec <= 600:
            raise InvalidInput(
                f"url_timeout_sec: expected above 0 and at most 600 seconds, got {self.url_timeout_sec!r}",
                field="url_timeout_sec",
            )
