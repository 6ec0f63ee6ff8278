"""A PyTorch module as an ONNX graph, by the exporter that traces with `torch.export` (dynamo).

It writes opset 18 and newer. An older opset is asked for by converting the graph down afterwards, which ONNX can do for most operators;
where it cannot, the graph stays at 18 and the caller is told. An axis that may vary is traced with at least two values, since a size of
one would be taken for a constant. What the exporter notes for developers (source lines, paths of this machine) does not go into the file.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from everloop.core.errors import InvalidInput, MissingExtra, NotSupported

LEAST = 18
"""The oldest opset that the exporter writes by itself."""
_PLACE = re.compile(r'The following call raised this error:\s*File ".*", line (\d+), in (\w+)')
_LOGS = (
    "torch.onnx",
    "torch.fx",
    "torch.fx.experimental.symbolic_shapes",
    "torch.export",
    "torch._export",
    "torch._dynamo",
    "torch._subclasses",
    "torch._subclasses.fake_tensor",
)
Axes = Mapping[str, Mapping[int, str] | Sequence[int]]
"""Name of an input or output -> its axes that vary, named or only told."""


def is_module(model: Any) -> bool:
    """Without importing torch where nobody has."""
    return any(
        f"{kind.__module__}.{kind.__qualname__}" == "torch.nn.modules.module.Module" for kind in type(model).__mro__
    )


def still(module: Any) -> Any:
    """A copy that answers the same to the same: in evaluation mode, on the CPU. The caller's module stays as it is."""
    return copy.deepcopy(module).cpu().eval()


def tensors_of(sample: Any) -> tuple[Any, ...]:
    """A sample as the tensors that the module is called with: a tensor, an array, a frame of numbers, or a tuple of these."""
    import torch

    found = []
    for each in sample if isinstance(sample, (tuple, list)) else (sample,):
        if isinstance(each, torch.Tensor):
            found.append(each.detach().cpu())
            continue
        array = each.to_numpy() if hasattr(each, "to_numpy") else each
        try:
            tensor = torch.tensor(array)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"sample_input: no tensor can be made of it: {error}", field="sample_input") from error
        found.append(tensor.float() if tensor.dtype == torch.float64 else tensor)
    return tuple(found)


def export_module(
    module: Any,
    sample: Any,
    *,
    opset: int,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Axes | None = None,
) -> tuple[bytes, int]:
    """The graph and its opset. `dynamic_axes`: None lets the first axis of everything vary; `{}` fixes all.

    Raises NotSupported (what the exporter cannot trace, in its words), InvalidInput, MissingExtra."""
    try:
        import onnxscript  # noqa: F401  the exporter is built on it
        import torch
    except ImportError as error:
        raise MissingExtra.of("torch", "exporting a PyTorch module") from error

    tensors = tensors_of(sample)
    names = (
        list(input_names)
        if input_names
        else [f"input_{i}" for i in range(len(tensors))]
        if len(tensors) > 1
        else ["input"]
    )
    if len(names) != len(tensors):
        raise InvalidInput(
            f"input_names: {len(names)} names ({', '.join(names)}) for {len(tensors)} inputs", field="input_names"
        )
    shapes, tensors = _dynamic(names, output_names or (), tensors, dynamic_axes)
    try:
        with _quiet():
            program = torch.onnx.export(
                still(module),
                tensors,
                dynamo=True,
                opset_version=max(opset, LEAST),
                input_names=names,
                output_names=list(output_names) if output_names else None,
                dynamic_shapes=shapes,
                verbose=False,
            )
            model = program.model_proto
    except Exception as error:  # the exporter passes on whatever tracing raised
        raise NotSupported(f"the module cannot be exported: {_reason(error)}") from error
    model, reached = _at_opset(model, opset)
    _forget_notes(model)
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload, reached


def _dynamic(
    names: list[str], outputs: Sequence[str], tensors: tuple[Any, ...], axes: Axes | None
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What `torch.export` is told of the axes, and samples that are larger than one along them."""
    import torch

    if axes is None:
        axes = {name: {0: "batch"} for name, tensor in zip(names, tensors, strict=True) if tensor.ndim}
    unknown = [name for name in axes if name not in names and name not in outputs]
    if unknown:
        raise InvalidInput(
            f"dynamic_axes.{unknown[0]}: neither an input ({', '.join(names)}) nor an output", field="dynamic_axes"
        )
    known: dict[str, Any] = {}
    shapes, larger = [], []
    for name, tensor in zip(names, tensors, strict=True):
        told = axes.get(name, {})
        named = dict(told) if isinstance(told, Mapping) else {axis: f"{name}_{axis}" for axis in told}
        wanted: dict[int, Any] = {}
        for axis, label in named.items():
            if not -tensor.ndim <= axis < tensor.ndim:
                raise InvalidInput(
                    f"dynamic_axes.{name}: there is no axis {axis} in shape {tuple(tensor.shape)}", field="dynamic_axes"
                )
            wanted[axis % tensor.ndim] = known.setdefault(str(label), torch.export.Dim(str(label)))
            if tensor.shape[axis] == 1:
                tensor = torch.cat([tensor, tensor], dim=axis)  # noqa: PLW2901
        shapes.append(wanted)
        larger.append(tensor)
    return tuple(shapes), tuple(larger)


def _at_opset(model: Any, wanted: int) -> tuple[Any, int]:
    """Converted down, or as it is where ONNX cannot."""
    if wanted >= LEAST:
        return model, wanted
    from onnx import checker, version_converter

    try:
        older = version_converter.convert_version(model, wanted)
        checker.check_model(older)
    except Exception:  # no way down for one of its operators: they are told in the opset that the caller gets back
        return model, LEAST
    return older, wanted


def _forget_notes(model: Any) -> None:
    graph = model.graph
    for each in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *model.functions,
    ):
        del each.metadata_props[:]
        each.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what its caller cannot help: libraries that are not there, its own deprecations. It prints the graph of what it
    could not trace, for each of the ways that it tries. And it has progress bars that it never shows; each would start a thread that
    watches over bars, and leave it behind."""
    from torch.export import _trace
    from torch.hub import tqdm  # a stand-in where tqdm is not installed

    logs = [logging.getLogger(name) for name in _LOGS]
    before, watched = [log.level for log in logs], getattr(tqdm, "monitor_interval", 0)
    for log in logs:
        log.setLevel(logging.CRITICAL)
    tqdm.monitor_interval = 0
    vars(_trace)["print"] = lambda *_, **__: None  # stderr as a whole is others' as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        vars(_trace).pop("print", None)
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
        tqdm.monitor_interval = watched


def _reason(error: BaseException) -> str:
    """The exporter wraps the cause and adds pages of advice: the innermost first line, or the place of a branch on data."""
    while error.__cause__ is not None:
        error = error.__cause__
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        where = _PLACE.search(str(error))
        told = "" if where is None else f": line {where[1]}, in {where[2]}"
        return f"it branches on a value that it computes, which a graph cannot{told}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
