"""Image classifiers: an ONNX network, its labels and its preprocessing as one artifact, asked with encoded images.

    payload    the ONNX model: one input of an image a row, one score a class
    options    `image`: an `ImageOptions`; `threads`
    classes    the labels, in the order of the scores

By its own tensors it takes `image`, BYTES [-1]: a file each (or text: base64), and gives `prediction`, `probabilities` and
`description`. Decoding is part of the run, and takes as long as an image is large: such a session never runs on an event loop (`varies`).

What is recorded of an image is its description, a few numbers (`picture.DESCRIBED`): so labels are joined by request id, and other light
or another camera is seen as drift, while no pixels are kept. Small files are kept themselves where `recorded_bytes` allows it; only
such can be shown to a shadow, or be asked again of another version. As a row a model takes `{"image": base64}`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.core.structs import looked_into
from everloop.core.tensors import Array, Signature, Tensor, Tensors, TensorSpec
from everloop.core.types import Row, Scalar
from everloop.runtime.artifact import Trust, threads_of
from everloop.runtime.onnx import direct, open_runtime
from everloop.runtime.picture import (
    DESCRIBED,
    MOST_PIXELS,
    Pixels,
    Preprocessing,
    decode,
    describe,
    read_base64,
    tensor_of,
)
from everloop.runtime.session import Matrix
from everloop.runtime.tensors import PREDICTION, PROBABILITIES, Answered, by_names, wrong_shape, wrong_type
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE, DESCRIPTION = "image", "description"
SCHEMA = Schema((Field(IMAGE, "text", nullable=True), *(Field(name, nullable=True) for name in DESCRIBED)), named=True)
TARGET = Target("classification", "text")
RUN_BYTES = 32 << 20
"""Of the network's input at a time: more images are run in several goes."""
_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
Scale = Literal["given", "softmax"]


@looked_into
class ImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest keeps under `options.image`."""

    preprocessing: Preprocessing
    output: str
    """Of the network: the scores."""
    scores: Scale = "given"
    """What makes probabilities of them."""
    most_pixels: int = MOST_PIXELS
    """Of one image; larger ones are refused before they are decoded."""
    recorded_bytes: int = 0
    """Files up to this size are recorded with their description, as base64."""


class Network:
    """The ONNX model: (n, *shape) -> (n, classes) probabilities. Safe from several threads."""

    def __init__(self, runtime: Any, options: ImageOptions, classes: int) -> None:
        """Raises NotSupported where it does not take what the options tell."""
        wanted = options.preprocessing
        first = runtime.get_inputs()[0]
        shape = list(first.shape or [])
        if len(runtime.get_inputs()) != 1 or first.type not in _TYPES or len(shape) != 4:
            raise NotSupported(
                f"the ONNX model's input {first.name!r} is {first.type} {shape}: expected one input of images, [n, channels, height, width] "
                "or [n, height, width, channels]"
            )
        if any(isinstance(got, int) and got != each for got, each in zip(shape[1:], wanted.shape, strict=True)):
            raise NotSupported(
                f"the ONNX model takes images of shape {shape[1:]}, and the preprocessing makes {list(wanted.shape)} "
                f"({wanted.layout}, {wanted.mode})"
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise NotSupported(
                f"the ONNX model takes {shape[0]} images at a time: export it with a variable first axis"
            )
        self.dtype = np.dtype(_TYPES[first.type])
        self._step = 1 if shape[0] == 1 else max(1, RUN_BYTES // (int(np.prod(wanted.shape)) * self.dtype.itemsize))
        self._options = options
        self._classes = classes
        self._name = first.name
        self._run: Any = direct(runtime)

    def probabilities(self, images: list[Pixels]) -> NDArray[np.float32]:
        """Raises ModelFailed."""
        parts = []
        for start in range(0, len(images), self._step):
            X = tensor_of(images[start : start + self._step], self._options.preprocessing, self.dtype)
            parts.append(self.ask(X))
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def ask(self, X: Array) -> NDArray[np.float32]:
        """Of what the network takes."""
        (found,) = self._run([self._options.output], {self._name: X})
        if found.size != len(X) * self._classes:
            raise ModelFailed(
                f"its output {self._options.output!r} has shape {list(found.shape)} for {len(X)} images and {self._classes} labels"
            )
        scores = found.reshape(len(X), self._classes).astype(np.float32, copy=False)
        if not np.isfinite(scores).all():
            failed = ModelFailed(f"its output {self._options.output!r} holds NaN or infinity")
            failed.how = "not_finite"
            raise failed
        return softmax(scores) if self._options.scores == "softmax" else scores

    def close(self) -> None:
        """ONNX Runtime frees the model when the last reference goes."""
        self._run = _closed


class ImageSession:
    """A `runtime.session.Session`."""

    schema: Schema = SCHEMA
    target: Target = TARGET
    dtype: Any = object
    scored = True
    varies = True
    """What a run takes depends on its input."""

    def __init__(self, network: Network, options: ImageOptions, classes: list[Any]) -> None:
        self.classes: list[Any] | None = classes
        self._network = network
        self.tensors = ImageTensors(network, options, classes)

    def run(self, X: Matrix) -> Matrix:
        return self.tensors.infer([X[:, 0]], (PREDICTION,))[PREDICTION]  # type: ignore[no-any-return]

    def scores(self, X: Matrix) -> NDArray[np.float64] | None:
        return self.tensors.infer([X[:, 0]], (PROBABILITIES,))[PROBABILITIES].astype(np.float64)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._network.close()


class ImageTensors:
    """A `runtime.tensors.TensorModel`."""

    batched = True
    always = (PREDICTION, DESCRIPTION)

    def __init__(self, network: Network, options: ImageOptions, classes: list[Any]) -> None:
        self._network = network
        self._options = options
        self._classes = np.array(classes, object)
        self.signature = Signature(
            (TensorSpec(IMAGE, "BYTES", (-1,)),),
            (
                TensorSpec(PREDICTION, "BYTES", (-1,)),
                TensorSpec(PROBABILITIES, "FP32", (-1, len(classes))),
                TensorSpec(DESCRIPTION, "FP64", (-1, len(DESCRIBED))),
            ),
        )

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        tensor = by_names(tensors, (IMAGE,))[IMAGE]
        if tensor.datatype != "BYTES":
            raise wrong_type(tensor, "BYTES")
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
            raise wrong_shape(tensor, (-1,))
        return [tensor.data.reshape(-1)]

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        """Raises InvalidInput, TooLarge naming the image."""
        files, options = arrays[0], self._options
        images, sizes = [], []
        for i, file in enumerate(files):
            at = IMAGE if len(files) == 1 else f"{IMAGE}[{i}]"
            pixels, size = decode(_bytes_of(file, at), options.preprocessing, options.most_pixels, at)
            images.append(pixels)
            sizes.append(size)
        found: Tensors = {}
        if DESCRIPTION in outputs:
            found[DESCRIPTION] = np.array([describe(*each) for each in zip(images, sizes, strict=True)], np.float64)
        if PREDICTION in outputs or PROBABILITIES in outputs:
            probabilities = self._network.probabilities(images)
            found[PREDICTION] = self._classes[probabilities.argmax(axis=1)]
            found[PROBABILITIES] = probabilities
        return {name: found[name] for name in outputs}

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered | None:
        files, most = arrays[0], self._options.recorded_bytes
        X = np.empty((len(files), 1 + len(DESCRIBED)), object)
        X[:, 0] = [_kept(file, most) for file in files]
        X[:, 1:] = answers[DESCRIPTION]
        return Answered(X, answers[PREDICTION].tolist())


def check_example(row: Row | None, label: Scalar, at: str) -> None:  # noqa: ARG001  a label is checked by its target
    """What may come with a label; None: an image that was asked about. Raises InvalidInput."""
    if row is not None:
        _bytes_of(row[0], f"{at}.{IMAGE}")


def load(manifest: Manifest, payload: bytes, trust: Trust | None = None) -> ImageSession:  # noqa: ARG001  as in `linear`
    options = options_of(manifest)
    classes = manifest.classes
    if manifest.schema != SCHEMA or manifest.target != TARGET or not classes:
        raise ArtifactCorrupt("its manifest tells of no images, or of no labels")
    network = Network(open_runtime(payload, threads=threads_of(manifest)), options, len(classes))
    network.ask(
        np.zeros((1, *options.preprocessing.shape), network.dtype)
    )  # whether it answers; and the first takes longest
    return ImageSession(network, options, classes)


def options_of(manifest: Manifest) -> ImageOptions:
    """Raises ArtifactCorrupt."""
    try:
        options = msgspec.convert(manifest.options.get("image"), ImageOptions)
        options.preprocessing.validate()
    except (msgspec.ValidationError, InvalidInput) as error:
        raise ArtifactCorrupt(f"options.image: {error}") from error
    return options


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, classes) -> (n, classes), each row a distribution."""
    raised: NDArray[np.float32] = np.exp(scores - scores.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return raised


def _bytes_of(file: Any, at: str) -> bytes:
    """Raises InvalidInput."""
    if isinstance(file, bytes):
        return file
    if isinstance(file, str):
        return read_base64(file, at)
    raise InvalidInput(
        f"{at}: expected an image, as base64 text. The numbers beside it describe an image that was not recorded itself",
        field=at,
    )


def _kept(file: Any, most: int) -> str | None:
    """Base64, of a file that is small enough to be recorded."""
    if isinstance(file, str):
        return file if len(file) * 3 // 4 <= most else None
    return base64.b64encode(file).decode() if len(file) <= most else None


def _closed(*_: Any) -> Any:
    raise ModelFailed("this image classifier is closed")
