"""PyTorch models that are code: a module of the user's own with weights in safetensors, TorchScript, what `torch.export.load` opens.

A module does not tell what it takes and gives, so `everloop.save_model` asks it with an example and writes its signature down: in the
metadata of a safetensors file, in an extra file of a TorchScript archive. Of a TorchScript archive without one the width of a row is taken
from its first matrix of weights, if the module answers to rows of it.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import msgspec

from everloop.core.errors import ArtifactCorrupt, InvalidInput, MissingExtra, ModelFailed, NotSupported
from everloop.core.tensors import Signature, TensorSpec
from everloop.runtime.artifact import Trust
from everloop.runtime.modules import run_code
from everloop.runtime.torch_archive import NOTE, Archive, Beyond, Note, read_note
from everloop.runtime.torch_program import Program, datatype_name

METADATA = "everloop"
_SAVE = "everloop.save_model(torch.jit.load(path), 'model.pt', example=…)"


def open_code(payload: bytes, trust: Trust) -> Program:
    """Raises NotSupported (bare weights), Untrusted, ModelFailed, ArtifactCorrupt."""
    note = _note_of_safetensors(payload)
    if note.code is None or note.signature is None:
        raise NotSupported(
            "the file holds weights without the module around them: save both with everloop.save_model(module, 'model.safetensors', "
            "example=…), or the module alone with everloop.save_model(module, 'model.pt2', example=…)"
        )
    made = run_code(note.code, trust)
    try:
        module = build(made.object, note)
        _load_weights(module, payload, note.code.entry)
    except BaseException:
        made.close()
        raise
    return _program(module.eval(), note, made.close)


def build(code: Any, note: Note) -> Any:
    """The module that the code makes of its arguments. Raises ModelFailed, NotSupported."""
    import torch

    assert note.code is not None
    try:
        module = code(**note.arguments)
    except Exception as error:
        raise ModelFailed(f"{note.code.entry} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise NotSupported(f"{note.code.entry} makes a {type(module).__name__}, and no torch.nn.Module")
    return module


def open_script(payload: bytes) -> Program:
    """A TorchScript archive that is trusted. Raises ArtifactCorrupt, NotSupported."""
    import torch

    extra = {NOTE: ""}
    with quiet():
        try:
            module = torch.jit.load(BytesIO(payload), map_location="cpu", _extra_files=extra).eval()
        except RuntimeError as error:
            raise ArtifactCorrupt(f"PyTorch cannot load the TorchScript module: {first_line(error)}") from error
    note = read_note(extra[NOTE]) if extra[NOTE] else Note()
    if note.signature is None:
        note = _look_at_script(module, note)
    return _program(module, note, script=True)


def open_export(payload: bytes) -> Program:
    """A program of `torch.export` that is trusted, by PyTorch's own loader. Raises ArtifactCorrupt, NotSupported."""
    import torch
    from torch.utils import _pytree as pytree

    with quiet():
        try:
            exported = torch.export.load(BytesIO(payload))
        except Exception as error:  # whatever its unpickling raises
            raise ArtifactCorrupt(
                f"PyTorch cannot load the program: {type(error).__name__}: {first_line(error)}"
            ) from error
        module: Any = exported.module()
    values: dict[str, Any] = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    signature = exported.graph_signature
    takes = [(str(name), values.get(name)) for name in signature.user_inputs]
    several = len(signature.user_outputs) > 1
    gives = [(f"output_{i}" if several else "output", values.get(n)) for i, n in enumerate(signature.user_outputs)]
    tensors = [value for _, value in (*takes, *gives) if isinstance(value, torch.Tensor)]
    if len(tensors) < len(takes) + len(gives) or not takes:
        raise NotSupported("the program takes or gives something that is no tensor")
    firsts = [value.shape[0] if value.ndim else 0 for value in tensors]
    batched = len({str(first) for first in firsts}) == 1 and not isinstance(firsts[0], int)
    names = [name for name, _ in (*takes, *gives)]
    sizes = tuple(tuple(s if isinstance(s, int) else 2 for s in value.shape) for value in tensors[: len(takes)])
    specs = [_spec(name, value, value.shape) for name, value in zip(names, tensors, strict=True)]
    told = Signature(tuple(specs[: len(takes)]), tuple(specs[len(takes) :]))
    in_spec = exported.call_spec.in_spec

    def call(*tensors: Any) -> list[Any]:
        args, kwargs = pytree.tree_unflatten(tensors, in_spec)
        return flat(module(*args, **kwargs))

    return Program(call, told, batched, sizes, _note_of_export(payload), module)


def described(module: Any, example: tuple[Any, ...], names: Sequence[str]) -> Note:
    """What the module takes and gives, as it answers the example and twice of it. Raises NotSupported."""
    import torch

    with torch.inference_mode():
        once, twice = (flat(module(*[torch.cat([t] * n) for t in example])) for n in (2, 4))
    told = output_names(module(*example))
    rows = 2 * len(example[0])
    inputs = [_spec(name, t, (-1, *t.shape[1:])) for name, t in zip(names, example, strict=True)]
    outputs = []
    for name, a, b in zip(told, once, twice, strict=True):
        shape = [x if x == y else -1 for x, y in zip(a.shape, b.shape, strict=True)]
        outputs.append(_spec(name, a, shape))
    batched = all(out.ndim and len(out) == rows for out in once) and all(len(out) == 2 * rows for out in twice)
    return Note(Signature(tuple(inputs), tuple(outputs)), batched, [list(t.shape) for t in example])


def flat(answer: Any) -> list[Any]:
    """The tensors that a module answers with, in order. Raises NotSupported."""
    import torch

    if isinstance(answer, torch.Tensor):
        return [answer]
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if not isinstance(answer, (tuple, list)) or not answer:
        raise NotSupported(
            f"the module answers with a {type(answer).__name__}: return tensors, a tuple or a mapping of them"
        )
    return [tensor for each in answer for tensor in flat(each)]


def output_names(answer: Any) -> list[str]:
    if isinstance(answer, Mapping) and len(flat(answer)) == len(answer):
        return [str(key) for key in answer]
    count = len(flat(answer))
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _program(module: Any, note: Note, close: Callable[[], None] = lambda: None, *, script: bool = False) -> Program:
    assert note.signature is not None

    def call(*tensors: Any) -> list[Any]:
        return flat(module(*tensors))

    sizes = tuple(map(tuple, note.sizes))
    return Program(call, note.signature, note.batched, sizes, note, module, script, close)


def _note_of_export(payload: bytes) -> Note:
    try:
        return Archive(payload).note()
    except Beyond:  # an archive of old has no place for one
        return Note()


def entry_of_file(payload: bytes) -> str | None:
    """The code that a safetensors file brings along. Raises ArtifactCorrupt."""
    code = _note_of_safetensors(payload).code
    return None if code is None else code.entry


def _note_of_safetensors(payload: bytes) -> Note:
    """Read by hand: the library gives the metadata of files on disk only. Raises ArtifactCorrupt."""
    length = int.from_bytes(payload[:8], "little")
    try:
        header = json.loads(payload[8 : 8 + length])
    except ValueError as error:
        raise ArtifactCorrupt(f"the safetensors file's header is no JSON: {error}") from error
    told = (header.get("__metadata__") or {}).get(METADATA) if isinstance(header, dict) else None
    return read_note(told) if isinstance(told, str) else Note()


def _load_weights(module: Any, payload: bytes, entry: str) -> None:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtra.of("torch", "a safetensors file") from error
    weights = safetensors.torch.load(payload)
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ArtifactCorrupt(f"the weights do not fit {entry}: {error}") from error


def _look_at_script(module: Any, note: Note) -> Note:
    """The signature of one that was saved by `torch.jit.save`. Raises NotSupported."""
    import torch

    takes = [a for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
    width = next((int(p.shape[1]) for p in module.parameters() if p.ndim == 2 and p.dtype.is_floating_point), None)
    if len(takes) == 1 and width is not None:
        kind = next(p.dtype for p in module.parameters() if p.ndim == 2)
        try:
            found = described(module, (torch.zeros(1, width, dtype=kind),), [takes[0].name])
        except Exception as error:
            raise NotSupported(
                f"the TorchScript module does not answer rows of {width} numbers ({first_line(error)}): save it again with {_SAVE}"
            ) from error
        return msgspec.structs.replace(note, signature=found.signature, batched=found.batched, sizes=found.sizes)
    raise NotSupported(f"the TorchScript module does not tell what it takes: save it again with {_SAVE}")


def _spec(name: str, tensor: Any, shape: Sequence[Any]) -> TensorSpec:
    return TensorSpec(name, datatype_name(tensor.dtype, name), tuple(s if isinstance(s, int) else -1 for s in shape))


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """What PyTorch warns of while it exports and loads (TorchScript is deprecated, a file is of an older version) is nothing that whoever
    serves the model could act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def copied(module: Any) -> Any:
    """A copy in evaluation mode: the caller's stays as it is. Raises InvalidInput."""
    try:
        return copy.deepcopy(module).eval()
    except Exception as error:
        raise InvalidInput(
            f"{type(module).__name__} cannot be copied: {type(error).__name__}: {error}", field="model"
        ) from error
