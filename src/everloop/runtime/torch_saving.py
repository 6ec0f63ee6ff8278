"""A PyTorch module as a file or an artifact: exported as a program, or its weights beside the code that builds it.

`.pt2` is what `torch.export.save` writes, and needs neither the module's code nor anybody's trust when it is opened; `.safetensors` keeps
modules that cannot be exported (their `forward` decides by values), with the source of the module they are defined in; `.pt` is TorchScript,
for modules that are that already. The module that is given stays as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import EverloopError, InvalidInput, MissingExtra, NotSupported
from everloop.core.schema import plain
from everloop.runtime import torch_modules
from everloop.runtime.artifact import Trust
from everloop.runtime.modules import place_of, read_code, run_code, with_code
from everloop.runtime.torch import manifest_of, open_program
from everloop.runtime.torch_archive import NOTE, Note
from everloop.runtime.torch_modules import METADATA, copied, described
from everloop.stores.ports import Manifest

_TRUSTED = Trust(pickle=True)
"""What was made here a moment ago."""


def is_torch(model: Any) -> bool:
    """Whether it is a module or an exported program; PyTorch is not imported for that."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    exported = sys.modules.get("torch.export")
    return isinstance(model, torch.nn.Module) or (exported is not None and isinstance(model, exported.ExportedProgram))


def pack_module(
    module: Any,
    *,
    example: Any = None,
    feature_names: Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
) -> tuple[Manifest, bytes]:
    """`module`: an `nn.Module`, a TorchScript module or an `ExportedProgram`. `example`: what it is asked with, an array, a tensor, a
    frame of one row or more, or a tuple of them; not needed where its first layer is linear. `classes`: the labels, in the order of the
    scores. Raises InvalidInput, NotSupported (it cannot be exported: why)."""
    payload = _payload(module, ".pt2", example, _note(example, feature_names, classes))
    program = open_program(payload, _TRUSTED)
    try:
        return manifest_of(program), payload
    finally:
        program.close()


def save_module(
    module: Any,
    path: Path,
    *,
    example: Any = None,
    feature_names: Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    entry: str = "",
) -> Path:
    """The file by its ending (see above); `.pt2` where it has none (`.pt` of a TorchScript module). Of `.safetensors`, `arguments` are
    what the class is called with, and `entry` is where it is found (`package.module:Class`, `file.py:Class`). The file is opened once
    before it is written, so that one that is there can be served. Raises as `pack_module`."""
    if not path.suffix:
        path = path.with_suffix(".pt" if _is_script(module) else ".pt2")
    payload = _payload(module, path.suffix, example, _note(example, feature_names, classes), arguments, entry)
    note = torch_modules.entry_of_file(payload) if path.suffix == ".safetensors" else None
    program = open_program(payload, with_code(_TRUSTED, note) if note else _TRUSTED)
    try:
        manifest_of(program)
    finally:
        program.close()
    path.write_bytes(payload)
    return path


def _note(example: Any, feature_names: Sequence[str] | None, classes: Sequence[Any] | None) -> Note:
    names = feature_names if feature_names is not None else getattr(example, "columns", None)
    return Note(
        feature_names=[str(name) for name in names] if names is not None else None,
        classes=[plain(label) for label in classes] if classes is not None else None,
    )


def _payload(  # noqa: PLR0917  as it was called
    module: Any, ending: str, example: Any, note: Note, arguments: Mapping[str, Any] | None = None, entry: str = ""
) -> bytes:
    if _is_script(module):
        return _scripted(module, _tensors(example, module), note)
    if _is_exported(module):
        return _exported(module, note)
    if ending == ".safetensors":
        return _with_code(module, _tensors(example, module), note, arguments, entry)
    if ending == ".pt2":
        return _exported(_export(copied(module), _tensors(example, module)), note)
    raise NotSupported(f"a module is saved as .pt2 or .safetensors, not as {ending}", field="path")


def _export(module: Any, example: tuple[Any, ...]) -> Any:
    """For any number of rows. Raises NotSupported."""
    import torch
    from torch.export import Dim

    axis = Dim("batch")
    # Two rows, since of one PyTorch would make a constant; none of the caller's values, since the file keeps what was traced with.
    many = tuple(torch.zeros((2, *t.shape[1:]), dtype=t.dtype) for t in example)
    with torch_modules.quiet():
        try:
            return torch.export.export(module, many, dynamic_shapes=tuple({0: axis} for _ in many))
        except Exception as error:  # the exporter's own errors derive from nothing common
            why = torch_modules.first_line(error)
            raise NotSupported(
                f"{type(module).__name__} cannot be exported for any number of rows: {type(error).__name__}: {why}. Where forward decides "
                "by values, save it with its code: everloop.save_model(module, 'model.safetensors', example=…)",
                field="model",
            ) from error


def _exported(program: Any, note: Note) -> bytes:
    import torch

    out = BytesIO()
    with torch_modules.quiet():
        torch.export.save(program, out, extra_files={NOTE: msgspec.json.encode(note).decode()})
    return out.getvalue()


def _scripted(module: Any, example: tuple[Any, ...], note: Note) -> bytes:
    import torch

    module = copied(module)
    names = [a.name for a in module.forward.schema.arguments[1 : len(example) + 1]]
    told = _described(module, example, names)
    note = msgspec.structs.replace(note, signature=told.signature, batched=told.batched, sizes=told.sizes)
    out = BytesIO()
    with torch_modules.quiet():
        torch.jit.save(module, out, _extra_files={NOTE: msgspec.json.encode(note).decode()})
    return out.getvalue()


def _with_code(
    module: Any, example: tuple[Any, ...], note: Note, arguments: Mapping[str, Any] | None, entry: str
) -> bytes:
    """Raises InvalidInput where the code does not build the module again."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtra.of("torch", "a safetensors file") from error

    code = read_code(entry or place_of(type(module)))
    still = copied(module)
    told = _described(still, example, _parameters(module, len(example)))
    note = msgspec.structs.replace(
        note,
        signature=told.signature,
        batched=told.batched,
        sizes=told.sizes,
        code=code,
        arguments=dict(arguments or {}),
    )
    weights = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    try:
        metadata = {METADATA: msgspec.json.encode(note).decode()}
    except TypeError as error:
        raise InvalidInput(f"arguments: expected values that JSON can hold: {error}", field="arguments") from error
    payload: bytes = safetensors.torch.save(weights, metadata)
    _check_rebuilt(payload, still, example, note)
    return payload


def _check_rebuilt(payload: bytes, module: Any, example: tuple[Any, ...], note: Note) -> None:
    import torch

    assert note.code is not None
    try:
        run_code(note.code, with_code(Trust(), note.code.entry)).close()
        program = torch_modules.open_code(payload, with_code(Trust(), note.code.entry))
    except EverloopError as error:
        raise InvalidInput(
            f"{error.message}; give arguments= as the class was called with", field="arguments"
        ) from error
    with torch.inference_mode():
        pairs = zip(program.call(*example), torch_modules.flat(module(*example)), strict=True)
        same = all(torch.allclose(a, b, equal_nan=True) for a, b in pairs)
    program.close()
    if not same:
        raise InvalidInput(
            f"{note.code.entry} with these arguments answers otherwise than the module that was given",
            field="arguments",
        )


def _described(module: Any, example: tuple[Any, ...], names: Sequence[str]) -> Note:
    try:
        return described(module, example, names)
    except EverloopError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"example: the module fails on it: {type(error).__name__}: {torch_modules.first_line(error)}",
            field="example",
        ) from error


def _tensors(example: Any, module: Any) -> tuple[Any, ...]:
    """Raises InvalidInput."""
    import torch

    if _is_exported(module):
        return ()
    if example is None:
        example = _guessed(module)
    parts = list(example) if isinstance(example, (tuple, list)) and not _is_row(example) else [example]
    tensors = []
    for part in parts:
        each = part if isinstance(part, torch.Tensor) else _tensor(part)
        if each.ndim == 0 or len(each) == 0:
            raise InvalidInput(
                "example: expected tensors whose first axis is the batch, of one row or more", field="example"
            )
        tensors.append(each.detach())
    if not tensors or len({len(each) for each in tensors}) != 1:
        raise InvalidInput("example: expected one tensor an input, all of as many rows", field="example")
    return tuple(tensors)


def _tensor(part: Any) -> Any:
    """Numbers of NumPy's and pandas' double precision become PyTorch's own kind, as modules are made in."""
    import torch

    array = np.asarray(part.to_numpy() if hasattr(part, "to_numpy") else part)
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"example: expected numbers, got {array.dtype}", field="example")
    found = torch.from_numpy(np.array(array))
    return found.to(torch.get_default_dtype()) if array.dtype == np.float64 else found


def _is_row(example: Any) -> bool:
    """A list of numbers, or of lists of them: one array."""
    return bool(example) and isinstance(example[0], (int, float, list))


def _guessed(module: Any) -> Any:
    import torch

    first = next((each for each in module.modules() if not list(each.children()) and list(each.parameters())), None)
    if first is not None and getattr(first, "original_name", type(first).__name__) == "Linear":
        weight = next(each for each in first.parameters() if each.ndim == 2)
        return torch.zeros(2, weight.shape[1], dtype=weight.dtype)
    raise InvalidInput(
        f"{type(module).__name__} does not tell what it takes: give example=, an input of one row or more (a tuple where it takes several)",
        field="example",
    )


def _parameters(module: Any, count: int) -> list[str]:
    names = list(inspect.signature(module.forward).parameters)[:count]
    return names if len(names) == count else [f"input_{i}" for i in range(count)]


def _is_script(module: Any) -> bool:
    import torch

    return isinstance(module, torch.jit.ScriptModule)


def _is_exported(module: Any) -> bool:
    import torch.export

    return isinstance(module, torch.export.ExportedProgram)
