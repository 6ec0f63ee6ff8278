"""PyTorch: what is read without trust, what needs some, and that every form answers as the module itself."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop import save_model
from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, ModelFailed, NotSupported, Untrusted
from everloop.core.tensors import Tensor
from everloop.runtime.artifact import Trust, load_session, read_model, read_model_file
from everloop.runtime.packing import pack
from everloop.runtime.tensors import tensor_model
from everloop.stores.ports import Manifest

sys.path.append(str(Path(__file__).parent))
import torch_nets

NOBODY = Trust()
PICKLE = Trust(pickle=True)
X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


def mlp(*last: Any, width: int = 3) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, width), *last)


def answers(module: Any, *inputs: Any) -> Any:
    with torch.inference_mode():
        return module(*inputs)


@pytest.fixture(scope="session")
def classifier() -> tuple[Any, Manifest, bytes]:
    module = mlp()
    manifest, payload = pack(module, trust=NOBODY, classes=["a", "b", "c"], feature_names=list("wxyz"))
    return module, manifest, payload


@pytest.fixture(scope="session")
def seeing() -> tuple[Any, Manifest, bytes]:
    torch.manual_seed(0)
    module = torch_nets.Seeing().eval()
    example = (torch.rand(1, 1, 8, 8), torch.tensor([3]), torch.tensor([True]))
    manifest, payload = pack(module, trust=NOBODY, example=example)
    return module, manifest, payload


def changed(payload: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with one member changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as old, zipfile.ZipFile(out, "w") as new:
        for each in old.infolist():
            data = old.read(each)
            new.writestr(each.filename, change(data) if each.filename.endswith(name) else data)
    return out.getvalue()


def edited(payload: bytes, name: str, change: Callable[[Any], None]) -> bytes:
    def apply(data: bytes) -> bytes:
        told = json.loads(data)
        change(told)
        return json.dumps(told).encode()

    return changed(payload, name, apply)


def with_target(payload: bytes, target: str) -> bytes:
    def change(told: Any) -> None:
        told["graph_module"]["graph"]["nodes"][0]["target"] = target

    return edited(payload, "models/model.json", change)


def test_a_module_becomes_a_program_that_answers_as_it_does(classifier: tuple[Any, Manifest, bytes]) -> None:
    module, manifest, payload = classifier
    assert module.training, "the caller's module stays as it is"
    assert manifest.schema.names == ("w", "x", "y", "z")
    session = load_session(manifest, payload, trust=NOBODY)
    logits = answers(module, torch.from_numpy(X))
    assert session.run(X).tolist() == ["abc"[i] for i in logits.argmax(1).tolist()]
    assert session.scores(X) == pytest.approx(logits.softmax(1).numpy(), abs=1e-6)
    assert session.run(X[:1]).tolist() == session.run(X)[:1].tolist()
    session.close()
    with pytest.raises(EverloopError):
        session.run(X)


@pytest.mark.parametrize(
    ("last", "width", "classes", "scale"),
    [
        (lambda: [torch.nn.Softmax(1)], 3, None, "given"),
        (lambda: [torch.nn.LogSoftmax(1)], 3, None, "exp"),
        (list, 1, ["no", "yes"], "logistic"),
        (lambda: [torch.nn.Sigmoid()], 1, [False, True], "given"),
    ],
)
def test_what_the_scores_are_is_found_by_asking(last: Any, width: int, classes: list[Any] | None, scale: str) -> None:
    module = mlp(*last(), width=width)
    manifest, payload = pack(module, trust=NOBODY, classes=classes)
    assert manifest.options["answer"]["scale"] == scale
    session = load_session(manifest, payload, trust=NOBODY)
    scores = session.scores(X)
    assert scores is not None
    assert scores.sum(axis=1) == pytest.approx(1.0)
    assert manifest.classes is not None
    assert session.run(X).tolist() == [manifest.classes[i] for i in scores.argmax(axis=1)]


def test_one_value_a_row_is_a_regression_and_threads_are_counted_for_who_asks() -> None:
    module = mlp(width=1)
    manifest, payload = pack(module, trust=NOBODY)
    assert (manifest.task, manifest.classes) == ("regression", None)
    session = load_session(manifest, payload, trust=NOBODY)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert session.run(X) == pytest.approx(answers(module, torch.from_numpy(X))[:, 0].numpy(), abs=1e-6)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_several_inputs_and_outputs_are_asked_as_tensors(seeing: tuple[Any, Manifest, bytes]) -> None:
    module, manifest, payload = seeing
    assert manifest.task == "tensors"
    session = load_session(manifest, payload, trust=NOBODY)
    tensors = tensor_model(session)
    assert [(spec.name, spec.datatype, spec.shape) for spec in tensors.signature.inputs] == [
        ("image", "FP32", (-1, 1, 8, 8)),
        ("word", "INT64", (-1,)),
        ("shown", "BOOL", (-1,)),
    ]
    assert tensors.batched
    image = np.random.default_rng(1).normal(size=(5, 1, 8, 8)).astype(np.float32)
    image.flags.writeable = False  # as what came over the wire
    word, shown = np.arange(5), np.array([True, False, True, True, False])
    arrays = tensors.take(
        [Tensor("image", "FP32", image), Tensor("word", "INT64", word), Tensor("shown", "BOOL", shown)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tensors.infer(arrays, ["best", "seen"])
    wanted = answers(module, torch.tensor(image), torch.tensor(word), torch.tensor(shown))
    assert found["seen"] == pytest.approx(wanted["seen"].numpy(), abs=1e-6)
    assert found["best"].tolist() == wanted["best"].tolist()
    with pytest.raises(InvalidInput, match="unexpected shape"):
        tensors.take(
            [Tensor("image", "FP32", image[:, :, :4]), Tensor("word", "INT64", word), Tensor("shown", "BOOL", shown)]
        )


def test_answers_never_depend_on_what_was_asked_before() -> None:
    with pytest.raises(NotSupported, match="changes its own weight count"):
        pack(torch_nets.Counting(), trust=NOBODY, example=X)
    manifest, payload = pack(torch_nets.Doubling(), trust=NOBODY, example=X)
    session = load_session(manifest, payload, trust=NOBODY)
    rows = X.copy()
    assert session.run(rows) == pytest.approx(2 * X.sum(axis=1), abs=1e-5)
    assert (rows == X).all()


def test_code_by_import_path_runs_where_it_is_allowed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch_nets.Deciding(4, bias=0.5)
    with pytest.raises(NotSupported, match="save it with its code"):
        save_model(module, tmp_path / "model.pt2", example=X)
    with pytest.raises(InvalidInput, match="arguments="):
        save_model(module, tmp_path / "model.safetensors", example=X)
    with pytest.raises(InvalidInput, match="answers otherwise"):
        save_model(module, tmp_path / "model.safetensors", example=X, arguments={"width": 4})
    arguments = {"width": 4, "bias": 0.5}
    path = save_model(module, tmp_path / "model.safetensors", example=X, arguments=arguments)
    with pytest.raises(Untrusted, match="--trust-code torch_nets:Deciding"):
        read_model_file(path, trust=PICKLE)
    with pytest.raises(Untrusted):
        read_model_file(path, trust=Trust(code=("torch_nets",), network=True))
    trust = Trust(code=("torch_nets:Deciding",))
    manifest, payload = read_model_file(path, trust=trust)
    session = load_session(manifest, payload, trust=trust)
    assert session.run(X) == pytest.approx(answers(module, torch.from_numpy(X))[:, 0].numpy(), abs=1e-6)
    session.close()
    with pytest.raises(Untrusted):
        load_session(manifest, payload, trust=NOBODY)


def test_torchscript_is_a_program_and_needs_trust(tmp_path: Path) -> None:
    module = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(module)
        torch.jit.save(script, str(tmp_path / "plain.pt"))
    named = save_model(script, tmp_path / "named", feature_names=list("abcd"), classes=["x", "y", "z"])
    assert named.name == "named.pt"
    for path, classes in ((tmp_path / "plain.pt", [0, 1, 2]), (named, ["x", "y", "z"])):
        with pytest.raises(Untrusted, match=r"TorchScript.*--trust-pickle"):
            read_model_file(path, trust=NOBODY)
        manifest, payload = read_model_file(path, trust=PICKLE)
        assert manifest.classes == classes
        session = load_session(manifest, payload, trust=PICKLE)
        places = answers(module, torch.from_numpy(X)).argmax(1).tolist()
        assert session.run(X).tolist() == [classes[i] for i in places]
        with pytest.raises(Untrusted):
            load_session(manifest, payload, trust=NOBODY)


def test_bare_weights_are_refused_with_advice(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(mlp().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(NotSupported, match=r"everloop\.save_model"):
        read_model_file(tmp_path / "weights.safetensors", trust=PICKLE)
    torch.save(mlp().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(NotSupported, match=r"everloop\.save_model"):
        read_model_file(tmp_path / "weights.pt", trust=PICKLE)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.linear.out",
        "torch.ops.aten.lstm.data",
        "torch.ops.aten._fft_r2c.default",
        "torch.ops.aten._native_batch_norm_legit_no_training.default",
        "torch.ops.quantized.linear.default",
        "torch.ops.higher_order.cond",
        "torch.load",
        "os.system",
        "_operator.attrgetter",
        "builtins.eval",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.linear.__init__",
    ],
)
def test_a_program_may_name_only_what_computes(classifier: tuple[Any, Manifest, bytes], target: str) -> None:
    _, manifest, payload = classifier
    forged = with_target(payload, target)
    with pytest.raises(Untrusted, match="--trust-pickle"):
        load_session(manifest, forged, trust=NOBODY)


def test_operators_that_do_not_look_are_looked_at_first() -> None:
    from everloop.runtime.torch_ops import operator_of

    def tensor(*shape: int) -> Any:
        return torch.zeros(shape)

    lstm = operator_of("torch.ops.aten.lstm.input")
    attention = operator_of("torch.ops.aten.scaled_dot_product_attention.default")
    larger = operator_of("torch.ops.aten.upsample_nearest2d.default")
    assert lstm is not None
    assert attention is not None
    assert larger is not None
    states, weights = (tensor(1, 2, 2), tensor(1, 2, 2)), [tensor(8, 4), tensor(8, 2), tensor(8), tensor(8)]
    how = (True, 1, 0.0, False, False, True)
    assert lstm(tensor(2, 3, 4), states, weights, *how)[0].shape == (2, 3, 2)
    assert attention(tensor(1, 3, 4), tensor(1, 5, 4), tensor(1, 5, 4)).shape == (1, 3, 4)
    assert larger(tensor(1, 1, 2, 2), [4, 4], 2.0, 2.0).shape == (1, 1, 4, 4)
    for wrong in (
        lambda: lstm(tensor(2, 3, 4), states, [tensor(0), *weights[1:]], *how),
        lambda: lstm(tensor(2, 3, 4), states, weights[:3], *how),
        lambda: lstm(tensor(2, 3, 4), (tensor(1, 1, 2), tensor(1, 5, 2)), weights, *how),
        lambda: attention(tensor(1, 3, 4), tensor(1, 5, 4), tensor(1, 1, 4)),
        lambda: attention(tensor(1, 3, 4), tensor(1, 5, 4), tensor(1, 5, 4), tensor(3, 1, 9)),
        lambda: larger(tensor(1, 1, 2, 2), [4, 4], 1e-30, 1e-30),
    ):
        with pytest.raises((ModelFailed, RuntimeError)):
            wrong()


def test_what_only_pickle_could_read_needs_trust(classifier: tuple[Any, Manifest, bytes]) -> None:
    _, manifest, payload = classifier

    def pickled(told: Any) -> None:
        next(iter(told["config"].values()))["use_pickle"] = True

    for forged in (
        edited(payload, "model_weights_config.json", pickled),
        edited(payload, "models/model.json", lambda told: told["schema_version"].update(major=99)),
    ):
        with pytest.raises(Untrusted, match=r"torch\.export\.load"):
            read_model(forged, "it", trust=NOBODY, field="model")
    assert load_session(manifest, payload, trust=PICKLE).run(X).shape == (7,)


def test_pytorchs_own_loader_answers_the_same_where_it_is_trusted(
    classifier: tuple[Any, Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from everloop.runtime import torch_program
    from everloop.runtime.torch_archive import Beyond

    _, manifest, payload = classifier
    here = load_session(manifest, payload, trust=NOBODY).run(X)

    def beyond(payload: bytes) -> Any:
        raise Beyond("of another version")

    monkeypatch.setattr(torch_program, "read_program", beyond)
    read, _ = read_model(payload, "it", trust=PICKLE, field="model")
    assert read == manifest
    assert load_session(manifest, payload, trust=PICKLE).run(X).tolist() == here.tolist()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("models/model.json", lambda told: told["graph_module"]["graph"]["nodes"].pop(0)),
        (
            "models/model.json",
            lambda told: told["graph_module"]["graph"]["nodes"].append(told["graph_module"]["graph"]["nodes"][0]),
        ),
        (
            "models/model.json",
            lambda told: told["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(name="x, __import__"),
        ),
        ("models/model.json", lambda told: told["graph_module"]["graph"].update(tensor_values={})),
        ("models/model.json", lambda told: told["graph_module"]["signature"]["input_specs"].append({})),
        ("model_weights_config.json", lambda told: told["config"].clear()),
        (
            "model_weights_config.json",
            lambda told: next(iter(told["config"].values())).update(path_name="../../archive_version"),
        ),
        (
            "model_weights_config.json",
            lambda told: next(iter(told["config"].values()))["tensor_meta"].update(storage_offset={"as_int": 10**6}),
        ),
        (
            "model_weights_config.json",
            lambda told: next(iter(told["config"].values()))["tensor_meta"].update(sizes=[{"as_int": 10**9}] * 2),
        ),
        ("extra/everloop.json", lambda told: told.update(feature_names=7)),
        ("extra/everloop.json", lambda told: told.update(feature_names=["only one"])),
        ("extra/everloop.json", lambda told: told.update(classes=["only one"])),
    ],
)
def test_a_forged_archive_is_refused(
    classifier: tuple[Any, Manifest, bytes], name: str, change: Callable[[Any], None]
) -> None:
    forged = edited(classifier[2], name, change)
    with pytest.raises((ArtifactCorrupt, Untrusted, InvalidInput)):
        read_model(forged, "it", trust=NOBODY, field="model")


def test_a_manifest_that_tells_otherwise_is_refused(classifier: tuple[Any, Manifest, bytes]) -> None:
    import msgspec

    _, manifest, payload = classifier
    for wrong in (
        {"options": {}},
        {"options": {"answer": {"output": "nowhere", "how": "argmax"}}},
        {"options": manifest.options | {"threads": "many"}},
        {"task": "regression"},
        {"classes": ["a"]},
        {"schema": type(manifest.schema).unnamed(3)},
    ):
        with pytest.raises((ArtifactCorrupt, InvalidInput)):
            load_session(msgspec.structs.replace(manifest, **wrong), payload, trust=NOBODY)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bytes_that_were_hit_anywhere_never_do_harm(
    classifier: tuple[Any, Manifest, bytes], data: st.DataObject
) -> None:
    _, manifest, payload = classifier
    at = data.draw(st.integers(0, len(payload) - 1))
    with_byte = payload[:at] + bytes([data.draw(st.integers(0, 255))]) + payload[at + 1 :]
    cut = data.draw(st.booleans())
    with contextlib.suppress(EverloopError):
        load_session(manifest, with_byte[:at] if cut else with_byte, trust=NOBODY).run(X)
