"""Images, by programs without a server: any image classifier's artifact, asked with files, base64 or URLs.

What the routes of the server ask is the same artifact behind `api.questions.Image`; both answer in `answers.ImageAnswer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from everloop.core.errors import InvalidInput
from everloop.core.tensors import Tensor
from everloop.runtime.image import IMAGE, ImageSession, options_of
from everloop.runtime.picture import SHOWN_FORMATS, read_base64
from everloop.runtime.tensors import PROBABILITIES
from everloop.showcase.answers import ImageAnswer
from everloop.showcase.builtin import builtin_path
from everloop.showcase.config import ShowcaseConfig
from everloop.showcase.shaping import likeliest

if TYPE_CHECKING:
    from everloop.showcase.fetching import Way

RUNTIME = "image"
Given: TypeAlias = bytes | bytearray | memoryview | str | Path
"""A file's bytes, base64 (with or without `data:…;base64,` before it), or where the file is."""


def decoded(text: str) -> bytes:
    """The file that base64 holds. Raises InvalidInput."""
    return read_base64(text, IMAGE)


class ImageClassifier:
    """Safe from any thread."""

    def __init__(
        self, path: str | Path | None = None, *, config: ShowcaseConfig | None = None, way: Way | None = None
    ) -> None:
        """`path`: of an artifact; the built-in digits if not given. `config`: whether and how images are fetched from URLs, which is off
        unless it says otherwise. Raises InvalidInput, ArtifactCorrupt, MissingExtra."""
        from everloop.runtime.artifact import Trust, load_session, read_payload
        from everloop.runtime.packaged import read_artifact

        self._path = Path(path) if path is not None else builtin_path("digits")
        self._manifest, payload = read_artifact(read_payload(self._path))
        if self._manifest.runtime != RUNTIME:
            raise InvalidInput(
                f"{self._path} is no image classifier: it is an artifact of the runtime {self._manifest.runtime!r}",
                field="path",
            )
        session = load_session(self._manifest, payload, trust=Trust())
        assert isinstance(session, ImageSession)
        self._session = session
        self._labels: Sequence[Any] = self._manifest.classes or ()
        self._config = config or ShowcaseConfig()
        self._way = way
        self.name = f"{'image' if path is None else self._path.stem}-v1"

    def classify(self, image: Given | None = None, image_url: str | None = None, top_k: int = 5) -> ImageAnswer:
        """Either an image or where it is. Raises InvalidInput, TooLarge, NotSupported (URLs are not allowed)."""
        began = perf_counter()
        if (image is None) == (image_url is None):
            raise InvalidInput("give either image or image_url", field="image")
        if image_url is not None:
            # HTTP and TLS come with it: only where somebody has a URL.
            from everloop.showcase.fetching import INTERNET, fetch

            image = fetch(image_url, self._config, self._way or INTERNET)
        return self._answers([image], top_k, began)[0]

    def classify_batch(self, images: Iterable[Given], top_k: int = 5) -> list[ImageAnswer]:
        """One an image, in order; the time is that of all of them. Raises InvalidInput naming the image: `image[3]`."""
        if isinstance(images, (str, bytes, bytearray, memoryview, Path, Mapping)) or not isinstance(images, Iterable):
            raise InvalidInput(f"images: expected several images, got {type(images).__name__}", field="images")
        several = list(images)
        return self._answers(several, top_k, perf_counter()) if several else []

    def warmup(self) -> None:
        """Make the first answer as fast as all others."""
        from io import BytesIO

        import PIL.Image

        height, width = options_of(self._manifest).preprocessing.size
        blank = BytesIO()
        PIL.Image.new("RGB", (width, height)).save(blank, "PNG")
        self.classify(blank.getvalue())

    def get_info(self) -> dict[str, Any]:
        options = options_of(self._manifest)
        return {
            "model": self.name,
            "path": str(self._path),
            "labels": list(self._labels),
            "size": list(options.preprocessing.size),
            "formats": SHOWN_FORMATS,
            "most_pixels": options.most_pixels,
            "metrics": dict(self._manifest.metrics),
        }

    def close(self) -> None:
        self._session.close()

    def _answers(self, images: Sequence[Given | None], top_k: int, began: float) -> list[ImageAnswer]:
        most = self._config.max_top_k
        if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= most:
            raise InvalidInput(f"top_k: expected a whole number from 1 to {most:,}, got {top_k!r}", field="top_k")
        files = np.empty(len(images), object)
        files[:] = [_file(each, IMAGE if len(images) == 1 else f"{IMAGE}[{i}]") for i, each in enumerate(images)]
        tensors = self._session.tensors
        found = tensors.infer(tensors.take([Tensor(IMAGE, "BYTES", files)]), (PROBABILITIES,))
        best = likeliest(found, self._labels, top_k)
        took = round((perf_counter() - began) * 1000, 3)
        return [ImageAnswer(each, took, self.name) for each in best]


def _file(given: Any, at: str) -> bytes | str:
    """Raises InvalidInput."""
    if isinstance(given, Path):
        try:
            return given.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{at}: {given} cannot be read: {error.strerror or error}", field=at) from error
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given)
    if isinstance(given, (bytes, str)):
        return given
    raise InvalidInput(f"{at}: expected a file's bytes, base64 or a Path, got {type(given).__name__}", field=at)
