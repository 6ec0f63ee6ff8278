"""A program of `torch.export` as a function: its nodes, one after the other, over tensors.

Theory. The nodes are turned into the source of one Python function, in which every value is a name of ours and every constant is bound, so
no text of the file becomes code. Values are let go after their last use, which keeps the peak of memory at that of the module itself. The
way from one operator to the next is a third shorter than through `nn.Module.__call__`.

A program may change tensors in place (`nn.ReLU(inplace=True)`), but never its own weights, since answers would then depend on what was
asked before; what it changes of its inputs is a copy. Which values may share memory is followed from the operators' schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from everloop.core.errors import ArtifactCorrupt, NotSupported
from everloop.core.tensors import Signature, TensorSpec
from everloop.runtime.torch_archive import Archive, Beyond, Graph, GraphModule, Node, Note, Size, TensorMeta, dtype_of
from everloop.runtime.torch_ops import operator_of, says_nothing

_MAY_ALIAS = ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "to", "type_as", "pad", "__getitem__")
"""Operators that may give back their input itself although their schema does not say so."""
_LARGEST = 4096
"""Of a free axis, for warming up."""
_OURS = re.compile(r"\bv\d+\b")
_SYMBOL = re.compile(r"(Symbol\('\w+'[\w, =]*\)|[A-Za-z_]\w*)\Z(?<!None)")
_TRAINING = {"batch_norm": "training", "instance_norm": "use_input_stats", "dropout": "train", "rnn": "train"}


@dataclass(frozen=True)
class Program:
    """An opened PyTorch model: tensors in, tensors out, in the order of its signature."""

    call: Callable[..., Sequence[Any]]
    """Of tensors by position. Callable from several threads at once."""
    signature: Signature
    batched: bool
    """Whether the first axis of all inputs and outputs is one batch, of any size."""
    sizes: tuple[tuple[int, ...], ...]
    """Of its inputs as they were when it was saved: what surely fits."""
    note: Note = field(default_factory=Note)
    module: Any = None
    """The `nn.Module`, where there is one."""
    script: bool = False
    """Whether that is TorchScript."""
    close: Callable[[], None] = lambda: None


def read_program(payload: bytes) -> Program:
    """A `.pt2` archive, read as data. Raises Beyond (only PyTorch's own loader could), ArtifactCorrupt, NotSupported."""
    archive = Archive(payload)
    made = archive.program()
    builder = _Builder(made, archive.tensors())
    return Program(builder.function(), builder.signature(), builder.batched(), builder.sizes(), archive.note())


class _Builder:
    def __init__(self, made: GraphModule, tensors: dict[str, Any]) -> None:
        self._graph: Graph = made.graph
        self._calls = made.module_call_graph
        self._names: dict[str, str] = {}
        """Of the file's values -> of ours."""
        self._bound: dict[str, Any] = {}
        self._shares: dict[str, set[str]] = {}
        """Value -> the weights and inputs that it may share memory with."""
        self._inputs: list[str] = []
        self._changed: set[str] = set()
        self._bind_inputs(made.signature.input_specs, tensors)
        self._outputs = [self._user_output(spec) for spec in made.signature.output_specs]

    def function(self) -> Callable[..., Sequence[Any]]:
        parameters = [self._names[name] for name in self._inputs]
        lines = [self._line(node) for node in self._graph.nodes if not says_nothing(node.target)]
        results = ", ".join(self._value(name) for name in self._outputs)
        copied = [f"    {self._names[n]} = {self._names[n]}.clone()" for n in self._inputs if n in self._changed]
        body = "\n".join((*copied, *_released(lines, {self._names[name] for name in self._outputs})))
        source = f"def program({', '.join(parameters)}):\n{body}\n    return ({results},)\n"
        try:
            exec(compile(source, "<a program of torch.export>", "exec"), self._bound)  # noqa: S102  nothing of it is the file's text
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ArtifactCorrupt(f"the program cannot be put together: {error}") from error
        made: Callable[..., Sequence[Any]] = self._bound.pop("program")
        return made

    def signature(self) -> Signature:
        inputs = [self._spec(name, name) for name in self._inputs]
        names = self._output_names() or []
        if len(names) != len(self._outputs):
            names = ["output"] if len(self._outputs) == 1 else [f"output_{i}" for i in range(len(self._outputs))]
        outputs = [self._spec(name, str(told)) for name, told in zip(self._outputs, names, strict=True)]
        return Signature(tuple(inputs), tuple(outputs))

    def batched(self) -> bool:
        """Whether all first axes are the same symbol."""
        firsts = []
        for name in (*self._inputs, *self._outputs):
            sizes = self._meta(name).sizes
            firsts.append((sizes[0].as_expr or {}).get("expr_str") if sizes else None)
        return _SYMBOL.match(str(firsts[0])) is not None and len(set(firsts)) == 1

    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(_seen(size) for size in self._meta(name).sizes) for name in self._inputs)

    def _bind_inputs(self, specs: list[dict[str, Any]], tensors: dict[str, Any]) -> None:
        for spec in specs:
            ((kind, told),) = spec.items()
            if kind == "user_input" and "as_tensor" in told["arg"]:
                name = told["arg"]["as_tensor"]["name"]
                self._inputs.append(name)
                self._new(name, {f"input {name}"})
                continue
            key = {
                "parameter": "parameter_name",
                "buffer": "buffer_name",
                "tensor_constant": "tensor_constant_name",
            }.get(kind)
            if key is None:
                raise Beyond(f"it takes a {kind} that is no tensor")
            name, weight = told["arg"]["name"], told[key]
            if weight not in tensors:
                raise ArtifactCorrupt(f"the program's archive has no {weight}")
            self._bound[self._new(name, {f"weight {weight}"})] = tensors[weight]
        if not self._inputs:
            raise NotSupported("the program takes no tensors")

    def _user_output(self, spec: dict[str, Any]) -> str:
        told = spec.get("user_output")
        if told is None:
            raise NotSupported(
                "the program changes its own weights while it answers: call module.eval() before exporting it"
            )
        if "as_tensor" not in told["arg"]:
            raise NotSupported("the program gives back something that is no tensor: return tensors only")
        name: str = told["arg"]["as_tensor"]["name"]
        return name

    def _line(self, node: Node) -> tuple[str, list[str]]:
        """Of our source, and the values of ours that it makes."""
        called = operator_of(node.target)
        if called is None:
            raise Beyond(f"it calls {node.target}, which is not known to only compute")
        _check_trained(node)
        function = f"f{len(self._bound)}"
        self._bound[function] = called
        schema = getattr(called, "_schema", None)
        order = [] if schema is None else [a.name for a in schema.arguments if not a.kwarg_only]
        parts = []
        positional = True
        for at, argument in enumerate(node.inputs):
            positional = positional and (schema is None or (at < len(order) and order[at] == argument.name))
            told = self._told(argument.arg)
            parts.append(told if positional else f"{_identifier(argument.name)}={told}")
        shared = self._follow(node, schema)
        made, targets = self._targets(node, shared)
        call = f"{function}({', '.join(parts)})"
        return (f"    {targets} = {call}" if targets else f"    {call}"), made

    def _follow(self, node: Node, schema: Any) -> set[str]:
        """What the node's values may share memory with; what it changes in place is noted, or refused."""
        given = {each.name: self._shared(each.arg) for each in node.inputs}
        if schema is None:
            return set()
        shared: set[str] = set()
        for argument in schema.arguments:
            if argument.alias_info is None or argument.name not in given:
                continue
            shared |= given[argument.name]
            if argument.alias_info.is_write:
                for each in given[argument.name]:
                    kind, _, name = each.partition(" ")
                    if kind == "weight":
                        raise NotSupported(f"the program changes its own weight {name} while it answers")
                    self._changed.add(name)
        if node.target.split(".")[3] in _MAY_ALIAS:
            shared |= set().union(*given.values())
        return shared

    def _targets(self, node: Node, shared: set[str]) -> tuple[list[str], str]:
        made: list[str] = []

        def target(told: dict[str, Any]) -> str:
            ((kind, value),) = told.items()
            if kind == "as_none":
                return "_"
            if kind == "as_tensors":
                return "[" + ", ".join(target({"as_tensor": each}) for each in value) + "]"
            name = value.get("as_name") if kind.startswith("as_sym") else value.get("name")
            if not isinstance(name, str):
                raise Beyond(f"{node.target} gives {kind}")
            made.append(self._new(name, shared if kind == "as_tensor" else set()))
            return made[-1]

        return made, ", ".join(target(told) for told in node.outputs)

    def _told(self, arg: dict[str, Any]) -> str:
        """An argument, in our source."""
        ((kind, value),) = arg.items()
        if kind == "as_none":
            return "None"
        if kind in ("as_tensor", "as_optional_tensor"):
            return self._value(value["name"]) if "name" in value else self._told(value)
        if kind in ("as_tensors", "as_optional_tensors"):
            return "[" + ", ".join(self._told({"as_optional_tensor": each}) for each in value) + "]"
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._value(value["as_name"]) if "as_name" in value else self._constant(next(iter(value.values())))
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return "[" + ", ".join(self._told({"as_sym_int": each}) for each in value) + "]"
        return self._constant(_plain(kind, value))

    def _shared(self, arg: dict[str, Any]) -> set[str]:
        ((kind, value),) = arg.items()
        if kind in ("as_tensor", "as_optional_tensor"):
            return self._shares.get(value.get("name") or value.get("as_tensor", {}).get("name"), set())
        if kind in ("as_tensors", "as_optional_tensors"):
            return set().union(*(self._shared({"as_optional_tensor": each}) for each in value))
        return set()

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._bound)}"
        self._bound[name] = value
        return name

    def _new(self, name: str, shares: set[str]) -> str:
        if name in self._names:
            raise ArtifactCorrupt(f"the program makes {name} twice")
        self._names[name] = f"v{len(self._names)}"
        self._shares[name] = shares
        return self._names[name]

    def _value(self, name: str) -> str:
        if name not in self._names:
            raise ArtifactCorrupt(f"the program uses {name} before it makes it")
        return self._names[name]

    def _meta(self, name: str) -> TensorMeta:
        meta = self._graph.tensor_values.get(name)
        if meta is None:
            raise ArtifactCorrupt(f"the program does not tell the shape of {name}")
        return meta

    def _spec(self, name: str, told: str) -> TensorSpec:
        meta = self._meta(name)
        sizes = tuple(-1 if size.as_int is None else size.as_int for size in meta.sizes)
        return TensorSpec(told, datatype_name(dtype_of(meta.dtype), told), sizes)

    def _output_names(self) -> list[str] | None:
        """The keys, where the module answers with a mapping."""
        whole = next((call.signature for call in self._calls if call.fqn == "" and call.signature), None)
        try:
            tree = json.loads(whole.out_spec)[1] if whole else {}
            keys = (
                json.loads(tree["context"])
                if tree.get("type") in ("builtins.dict", "collections.OrderedDict")
                else None
            )
        except (ValueError, KeyError, TypeError, IndexError):  # told in another way: then they are only numbered
            return None
        return [str(key) for key in keys] if isinstance(keys, list) else None


def datatype_name(dtype: Any, told: str) -> str:
    """The Open Inference Protocol's name of PyTorch's type. Raises NotSupported."""
    import torch

    names = {
        torch.bool: "BOOL", torch.uint8: "UINT8", torch.uint16: "UINT16", torch.uint32: "UINT32", torch.uint64: "UINT64",
        torch.int8: "INT8", torch.int16: "INT16", torch.int32: "INT32", torch.int64: "INT64",
        torch.float16: "FP16", torch.float32: "FP32", torch.float64: "FP64",
    }  # fmt: skip
    if dtype not in names:
        raise NotSupported(
            f"{told} is of type {dtype}, which is no tensor of the protocol: convert it inside the module"
        )
    return names[dtype]


def _seen(size: Size) -> int:
    """As it was when the program was exported."""
    hint = (size.as_expr or {}).get("hint") or {}
    found = size.as_int if size.as_int is not None else hint.get("as_int")
    return found if isinstance(found, int) and 0 <= found <= _LARGEST else 2


def _plain(kind: str, value: Any) -> Any:
    import torch

    if kind in (
        "as_int",
        "as_float",
        "as_bool",
        "as_string",
        "as_ints",
        "as_floats",
        "as_bools",
        "as_strings",
        "as_int_lists",
    ):
        return float(value) if kind == "as_float" else value
    if kind == "as_scalar_type":
        return dtype_of(value)
    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_layout" and value == 7:
        return torch.strided
    if kind == "as_memory_format":
        formats = (None, torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format)
        return formats[value]
    raise Beyond(f"it has an argument of kind {kind}")


def _check_trained(node: Node) -> None:
    """Raises NotSupported for a layer that was exported while it was training."""
    name = node.target.split(".")[3] if node.target.startswith("torch.ops.") else ""
    flag = _TRAINING.get("rnn" if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") else name)
    if any(argument.name == flag and argument.arg.get("as_bool") is True for argument in node.inputs):
        raise NotSupported(
            f"the program was exported while {name} was training: call module.eval() before exporting it"
        )


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise ArtifactCorrupt(f"the program has an argument named {name[:40]!r}")
    return name


def _released(lines: list[tuple[str, list[str]]], kept: set[str]) -> list[str]:
    """The lines, each value let go after the last one that uses it."""
    last: dict[str, int] = {}
    for at, (line, made) in enumerate(lines):
        for name in made:
            last[name] = at
        last.update((name, at) for name in _OURS.findall(line) if name in last)
    ends: dict[int, list[str]] = {}
    for name, at in last.items():
        if name not in kept:
            ends.setdefault(at, []).append(name)
    return [line + (f"; {' = '.join(ends[at])} = None" if at in ends else "") for at, (line, _) in enumerate(lines)]
