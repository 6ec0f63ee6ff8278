"""Making an image classifier's artifact: an ONNX network, its labels, and how an image becomes its input.

What the file itself tells is taken from it: the layout, the size, the number of channels, the one output of scores. Whether these are
probabilities is found out by asking it noise, as with PyTorch modules (`runtime.torch_answers`). What nothing tells is how the network was
trained to see (`mean`, `std`, `crop`): that has to be said, or a preset says it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from everloop.core.errors import InvalidInput, ModelFailed, NotSupported, explain
from everloop.runtime.artifact import Trust, library_versions, load_session, read_payload
from everloop.runtime.image import SCHEMA, TARGET, ImageOptions, Network
from everloop.runtime.onnx import open_runtime
from everloop.runtime.picture import MOST_PIXELS, Preprocessing
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

Preset = Literal["imagenet", "plain"]
PRESETS: dict[str, dict[str, Any]] = {
    # torchvision's and most of timm's models; https://pytorch.org/vision/stable/models.html
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop": 0.875},
    "plain": {},
}
"""How networks of a kind were trained to see; `plain`: values of 0 to 1."""
MOST_LABELS = 100_000
_SEED, _NOISE = 6, 16


def save_image_model(
    path: str | Path,
    *,
    onnx: str | Path | bytes,
    labels: Sequence[str] | str | Path,
    preset: Preset = "plain",
    size: int | tuple[int, int] | None = None,
    output: str | None = None,
    recorded_bytes: int = 0,
    most_pixels: int = MOST_PIXELS,
    **preprocessing: Any,
) -> Path:
    """Write an ONNX image classifier as an artifact file that `everloop serve NAME=PATH` takes and that is asked with PNG, JPEG, WebP, GIF or
    BMP files; return its path, which ends with `.artifact` unless `path` has another ending.

    `onnx`: the model file, or its bytes: one input of images [n, channels, height, width] or [n, height, width, channels], and one score a
    class. `labels`: in the order of the scores, or a file of them, one a line or a JSON list; those that come twice get their place behind
    them. `preset` "imagenet" is how torchvision's and most of timm's networks were trained to see. `size` (height and width) is needed
    where the file leaves it open, `output` where it has several. `recorded_bytes`: files up to that size are recorded whole, which
    shadows and retraining need; of all others a few numbers are. All else are the fields of `everloop.runtime.picture.Preprocessing`:
    `mean`, `std`, `scale`, `mode`, `layout`, `fit`, `crop`, `resample`, `background`, `invert`, `trim`.

    Raises InvalidInput (a field, the labels), NotSupported (no such network), ArtifactCorrupt, MissingExtra (`images`)."""
    from everloop.runtime.packaged import write_artifact

    manifest, payload = pack_image_model(
        onnx,
        labels,
        preset=preset,
        size=size,
        output=output,
        recorded_bytes=recorded_bytes,
        most_pixels=most_pixels,
        **preprocessing,
    )
    return write_artifact(path, manifest, payload)


def pack_image_model(
    onnx: str | Path | bytes,
    labels: Sequence[str] | str | Path,
    *,
    preset: Preset = "plain",
    size: int | tuple[int, int] | None = None,
    output: str | None = None,
    recorded_bytes: int = 0,
    most_pixels: int = MOST_PIXELS,
    **preprocessing: Any,
) -> tuple[Manifest, bytes]:
    """As `save_image_model`: the artifact itself."""
    payload = onnx if isinstance(onnx, bytes) else read_payload(onnx)
    classes = read_labels(labels)
    runtime = open_runtime(payload)
    wanted = _preprocessing(runtime, size, {**_preset(preset), **preprocessing})
    for name, least, value in (("recorded_bytes", 0, recorded_bytes), ("most_pixels", 1, most_pixels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInput(f"{name}: expected a whole number from {least} on, got {value!r}", field=name)
    options = ImageOptions(wanted, _scores(runtime, output), "given", most_pixels, recorded_bytes)
    network = Network(runtime, options, len(classes))
    try:
        noise = _noise_answers(network, wanted)
    except ModelFailed as error:
        raise NotSupported(f"the ONNX model does not fit its labels: {error.message}", field="labels") from error
    except Exception as error:  # ONNX Runtime's own
        raise NotSupported(f"the ONNX model does not answer images of {wanted.shape}: {explain(error)}") from error
    if not _probabilities(noise):
        options = msgspec.structs.replace(options, scores="softmax")
    manifest = Manifest(
        runtime="image",
        task="classification",
        schema=SCHEMA,
        target=TARGET,
        classes=classes,
        libraries=library_versions("onnxruntime", "pillow"),
        options={"image": msgspec.to_builtins(options)},
    )
    load_session(manifest, payload, trust=Trust()).close()
    return manifest, payload


def read_labels(labels: Sequence[str] | str | Path) -> list[str]:
    """Each different from the others. Raises InvalidInput."""
    if isinstance(labels, (str, Path)):
        labels = _labels_in(Path(labels))
    told = list(labels)
    if not 2 <= len(told) <= MOST_LABELS or not all(isinstance(label, str) and label.strip() for label in told):
        raise InvalidInput(
            f"labels: expected 2 to {MOST_LABELS:,} texts, none of them empty, got {len(told)}", field="labels"
        )
    often = Counter(told)
    seen: set[str] = set()
    made = []
    for place, label in enumerate(told):
        made.append(f"{label} ({place})" if often[label] > 1 and label in seen else label)
        seen.add(label)
    if len(set(made)) != len(made):
        raise InvalidInput("labels: they cannot be told apart", field="labels")
    return made


def _labels_in(path: Path) -> list[str]:
    try:
        text = read_payload(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"labels: {path} is not UTF-8: {error.reason} at byte {error.start}", field="labels"
        ) from error
    if "\0" in text:
        raise InvalidInput(f"labels: {path} is no text: it holds NUL", field="labels")
    if text.lstrip().startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"labels: {path} is no JSON list of texts: {error}", field="labels") from error
    return [line.strip() for line in text.strip().splitlines()]


def _preset(name: str) -> dict[str, Any]:
    found = PRESETS.get(name)
    if found is None:
        raise InvalidInput(f"preset: there is none named {name!r}; there are {', '.join(PRESETS)}", field="preset")
    return found


def _preprocessing(runtime: Any, size: int | tuple[int, int] | None, said: dict[str, Any]) -> Preprocessing:
    """What was said, and what the file tells of the rest. Raises InvalidInput, NotSupported."""
    inputs = [(each.name, list(each.shape or [])) for each in runtime.get_inputs()]
    if len(inputs) != 1 or len(inputs[0][1]) != 4:
        found = ", ".join(f"{name} {shape}" for name, shape in inputs) or "none"
        raise NotSupported(f"the ONNX model's inputs are {found}: expected one, of images, with four axes")
    ((_, shape),) = inputs
    layout = said.get("layout") or ("NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW")
    channels, *sides = shape[1:] if layout == "NCHW" else (shape[3], *shape[1:3])
    if size is None:
        if not all(isinstance(side, int) for side in sides):
            raise InvalidInput(
                "size: the ONNX model leaves it open: say the height and width to ask it with", field="size"
            )
        size = (sides[0], sides[1])
    told = {
        "size": (size, size) if isinstance(size, int) else tuple(size),
        "layout": layout,
        "mode": "L" if channels == 1 else "RGB",
        **said,
    }
    try:
        wanted = msgspec.convert(told, Preprocessing)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the preprocessing: {error}", field="preprocessing") from error
    wanted.validate()
    return wanted


def _scores(runtime: Any, output: str | None) -> str:
    """The output that holds them. Raises InvalidInput, NotSupported."""
    names = [each.name for each in runtime.get_outputs()]
    if output is not None:
        if output not in names:
            raise InvalidInput(
                f"output: the ONNX model has none named {output!r}; it has {', '.join(names)}", field="output"
            )
        return output
    if len(names) != 1:
        raise InvalidInput(f"output: say which of {', '.join(names)} holds the scores", field="output")
    name: str = names[0]
    return name


def _noise_answers(network: Network, wanted: Preprocessing) -> NDArray[np.float32]:
    """What it makes of noise, as it comes."""
    rng = np.random.default_rng(_SEED)
    images = [rng.integers(0, 256, (*wanted.size, wanted.channels), np.uint8) for _ in range(_NOISE)]
    return network.probabilities(images)


def _probabilities(scores: NDArray[np.float32]) -> bool:
    inside = bool(scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6)
    return inside and bool(np.abs(scores.sum(axis=1) - 1).max() < 1e-3)
