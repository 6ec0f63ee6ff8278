"""Image classifiers: an ONNX network with labels and preprocessing as a model that is asked with files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.runtime.image_nets import COLOURS, colour_net, encoded, plain

import everloop
from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported, TooLarge
from everloop.core.tensors import Tensor
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.image import SCHEMA, ImageSession
from everloop.runtime.image_saving import pack_image_model, read_labels
from everloop.runtime.packaged import read_artifact
from everloop.stores.ports import Manifest

RED, BLUE = encoded(plain((250, 20, 20))), encoded(plain((10, 20, 240)), "JPEG")


def opened(manifest: Manifest, payload: bytes) -> ImageSession:
    session = load_session(manifest, payload, trust=Trust())
    assert isinstance(session, ImageSession)
    return session


def colours(**options: Any) -> ImageSession:
    return opened(*pack_image_model(colour_net(), COLOURS, **options))


def files(*given: Any) -> list[Any]:
    array = np.empty(len(given), object)
    array[:] = given
    return [array]


def test_files_are_answered_with_labels_and_probabilities() -> None:
    session = colours()
    given = session.tensors.take([Tensor("image", "BYTES", files(RED, base64.b64encode(BLUE).decode())[0])])
    found = session.tensors.infer(given, ("prediction", "probabilities", "description"))
    assert found["prediction"].tolist() == ["red", "blue"]
    assert found["probabilities"].sum(axis=1) == pytest.approx([1, 1])
    assert found["probabilities"].max() > 0.9
    assert found["description"].shape == (2, 9)
    assert list(session.tensors.infer(given, ("prediction",))) == ["prediction"]


def test_a_row_is_base64() -> None:
    session = colours()
    row = session.schema.row({"image": base64.b64encode(RED).decode()})
    X = session.schema.matrix([row])
    assert session.run(X).tolist() == ["red"]
    assert session.scores(X).shape == (1, 3)  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match="not recorded itself") as caught:
        session.run(session.schema.matrix([session.schema.row({"width": 3})]))
    assert caught.value.field == "image"


@pytest.mark.parametrize(("recorded_bytes", "kept"), [(0, False), (10_000, True)])
def test_what_is_recorded_is_a_description_and_only_small_files(recorded_bytes: int, kept: bool) -> None:
    tensors = colours(recorded_bytes=recorded_bytes).tensors
    big = encoded(plain((0, 200, 0), (300, 300)), "BMP")
    given = files(RED, base64.b64encode(RED).decode(), big)
    X, values = tensors.answered(given, tensors.infer(given, tensors.always))  # type: ignore[misc]
    text = base64.b64encode(RED).decode()
    assert X[:, 0].tolist() == ([text, text, None] if kept else [None] * 3)
    assert X[:, 1].tolist() == [16, 16, 300]
    assert values == ["red", "red", "green"]
    assert SCHEMA.rows(X.tolist()), "they are rows as the schema has them"


def test_the_image_that_is_wrong_is_named() -> None:
    tensors = colours(most_pixels=500).tensors
    with pytest.raises(InvalidInput) as caught:
        tensors.infer(files(RED, b"broken"), tensors.always)
    assert caught.value.field == "image[1]"
    with pytest.raises(TooLarge) as large:
        tensors.infer(files(encoded(plain("red", (30, 30)))), tensors.always)
    assert large.value.field == "image"


@pytest.mark.parametrize(
    ("name", "datatype", "shape"), [("picture", "BYTES", (1,)), ("image", "UINT8", (1,)), ("image", "BYTES", (1, 2))]
)
def test_other_tensors_are_refused(name: str, datatype: str, shape: tuple[int, ...]) -> None:
    data = np.zeros(shape, object if datatype == "BYTES" else np.uint8)
    with pytest.raises(InvalidInput):
        colours().tensors.take([Tensor(name, datatype, data)])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16])
def test_layout_batch_and_type_are_as_the_file_tells(layout: str, batch: Any, kind: int) -> None:
    net = colour_net(layout=layout, batch=batch, kind=kind)
    session = opened(*pack_image_model(net, COLOURS))
    assert session.tensors.infer(files(RED, BLUE), ("prediction",))["prediction"].tolist() == ["red", "blue"]


def test_logits_become_probabilities() -> None:
    manifest, payload = pack_image_model(colour_net(softmax=False), COLOURS)
    assert manifest.options["image"]["scores"] == "softmax"
    given = files(RED)
    found = opened(manifest, payload).tensors.infer(given, ("probabilities",))["probabilities"]
    np.testing.assert_allclose(found, colours().tensors.infer(given, ("probabilities",))["probabilities"], rtol=1e-5)


def test_the_imagenet_preset_and_what_is_said_beside_it() -> None:
    manifest, _ = pack_image_model(colour_net(size=None), COLOURS, preset="imagenet", size=(16, 24), crop=1.0)
    told = manifest.options["image"]["preprocessing"]
    assert (told["size"], told["crop"], told["mean"]) == ((16, 24), 1.0, (0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"labels": ["a", "b"]}, NotSupported, "2 labels"),
        ({"labels": ["a"]}, InvalidInput, "2 to 100,000"),
        ({"labels": ["a", " ", "c"]}, InvalidInput, "none of them empty"),
        ({"size": 16}, NotSupported, "takes images of shape"),
        ({"mode": "L"}, NotSupported, "takes images of shape"),
        ({"output": "logits"}, InvalidInput, "none named 'logits'"),
        ({"preset": "cifar"}, InvalidInput, "none named 'cifar'"),
        ({"std": (0.0,)}, InvalidInput, "std"),
        ({"means": (0.0,)}, InvalidInput, "means"),
        ({"recorded_bytes": -1}, InvalidInput, "recorded_bytes"),
        ({"most_pixels": True}, InvalidInput, "most_pixels"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], error: type[Exception], told: str) -> None:
    labels = options.pop("labels", COLOURS)
    with pytest.raises(error, match=told):
        pack_image_model(colour_net(), labels, **options)


def test_a_size_that_the_file_leaves_open_has_to_be_said() -> None:
    with pytest.raises(InvalidInput, match="leaves it open"):
        pack_image_model(colour_net(size="side"), COLOURS)


def test_a_batch_of_a_fixed_size_is_refused() -> None:
    with pytest.raises(NotSupported, match="4 images at a time"):
        pack_image_model(colour_net(batch=4), COLOURS)


def test_labels_that_come_twice_get_their_place(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text("crane\nheron\ncrane\n")
    assert read_labels(path) == ["crane", "heron", "crane (2)"]
    path.write_text('["crane", "heron"]')
    assert read_labels(path) == ["crane", "heron"]
    path.write_text("[1, 2]")
    with pytest.raises(InvalidInput, match="no JSON list of texts"):
        read_labels(path)
    with pytest.raises(InvalidInput, match="told apart"):
        read_labels(["a", "a (2)", "a"])


def test_an_artifact_file_holds_all_of_it(tmp_path: Path) -> None:
    net = tmp_path / "net.onnx"
    net.write_bytes(colour_net())
    path = everloop.save_image_model(tmp_path / "colours", onnx=net, labels=COLOURS)
    assert path.name == "colours.artifact"
    session = opened(*read_artifact(path.read_bytes()))
    assert session.tensors.infer(files(BLUE), ("prediction",))["prediction"].tolist() == ["blue"]
    session.close()
    with pytest.raises(ModelFailed, match="closed"):
        session.tensors.infer(files(BLUE), ("prediction",))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image": {}},
        {"image": {"preprocessing": {"size": [8, 8]}, "output": "probabilities", "zoom": 2}},
        {"image": {"preprocessing": {"size": [8, -8]}, "output": "probabilities"}},
    ],
)
def test_a_forged_manifest_is_refused(options: dict[str, Any]) -> None:
    manifest, payload = pack_image_model(colour_net(), COLOURS)
    with pytest.raises(ArtifactCorrupt):
        opened(msgspec.structs.replace(manifest, options=options), payload)
    with pytest.raises(ArtifactCorrupt):
        opened(msgspec.structs.replace(manifest, classes=None), payload)


def test_a_network_that_takes_no_images_is_refused() -> None:
    table = helper.make_tensor_value_info("table", TensorProto.FLOAT, ["n", 3])
    answer = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["table"], ["scores"])], "rows", [table], [answer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(NotSupported, match="expected one, of images"):
        pack_image_model(model.SerializeToString(), COLOURS)
