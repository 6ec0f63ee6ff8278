"""A `.pt2` archive of `torch.export.save`, read as the data that it is: its graph as JSON, its weights as raw bytes.

Theory. `torch.export.load` unpickles sample inputs and some weights (`weights_only=False`), and evaluates the text of symbolic sizes, so a
forged archive runs what its writer wants. None of that is needed to answer: the archive (PyTorch 2.9 and later) keeps the graph as JSON and
plain tensors as the bytes of their storage. This module reads those two and nothing else. What an archive holds beyond them (pickled
weights, objects of libraries, graphs within graphs, operators that `torch_ops` does not allow) raises `Beyond`; then only
`torch.export.load` could open it, and only where that is trusted.

Source: `torch/_export/serde/schema.py` (version 8) and `torch/export/pt2_archive/constants.py` of PyTorch 2.13.
"""

from __future__ import annotations

import sys
import zipfile
from io import BytesIO
from typing import Any

import msgspec

from everloop.core.errors import ArtifactCorrupt
from everloop.core.structs import looked_into
from everloop.core.tensors import Signature
from everloop.runtime.modules import Code
from everloop.runtime.zips import UNREADABLE

SCHEMA = 8
NOTE = "everloop.json"
"""The extra file of an archive that holds its `Note`."""


class Beyond(Exception):
    """The archive holds what cannot be read as data; in words."""


@looked_into
class Note(msgspec.Struct, omit_defaults=True):
    """What `everloop.save_model` writes down beside a model that does not tell it itself: a program only its names and classes."""

    signature: Signature | None = None
    batched: bool = False
    sizes: list[list[int]] = []
    """Of the example's tensors."""
    feature_names: list[str] | None = None
    classes: list[Any] | None = None
    code: Code | None = None
    arguments: dict[str, Any] = {}
    """What `code` is called with to build the module."""


def read_note(told: str | bytes) -> Note:
    """Raises ArtifactCorrupt."""
    note: Note = _decoded(told, Note)
    return note


class NamedArgument(msgspec.Struct):
    name: str
    arg: dict[str, Any]


class Node(msgspec.Struct):
    target: str
    inputs: list[NamedArgument]
    outputs: list[dict[str, Any]]


class Size(msgspec.Struct):
    as_int: int | None = None
    as_expr: dict[str, Any] | None = None


class TensorMeta(msgspec.Struct):
    dtype: int
    sizes: list[Size]
    strides: list[Size]
    storage_offset: Size


class Graph(msgspec.Struct):
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    nodes: list[Node]
    tensor_values: dict[str, TensorMeta]


class GraphSignature(msgspec.Struct):
    input_specs: list[dict[str, Any]]
    output_specs: list[dict[str, Any]]


class CallSignature(msgspec.Struct):
    out_spec: str


class ModuleCall(msgspec.Struct):
    fqn: str
    signature: CallSignature | None = None


class GraphModule(msgspec.Struct):
    graph: Graph
    signature: GraphSignature
    module_call_graph: list[ModuleCall]


@looked_into
class Exported(msgspec.Struct):
    graph_module: GraphModule
    schema_version: dict[str, int]


class Payload(msgspec.Struct):
    path_name: str
    use_pickle: bool
    tensor_meta: TensorMeta | None = None


@looked_into
class PayloadConfig(msgspec.Struct):
    config: dict[str, Payload]


class Archive:
    """The members of the zip by their names under its root. Raises ArtifactCorrupt, Beyond."""

    def __init__(self, payload: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(BytesIO(payload))
        except UNREADABLE as error:
            raise ArtifactCorrupt(f"the program's archive is damaged: {error}") from error
        root = next((n for n in self._zip.namelist() if n.endswith("/archive_format")), None)
        if root is None:
            raise Beyond("it was written by PyTorch 2.8 or before, whose programs are pickles")
        self._root = root.removesuffix("archive_format")
        if self.read("byteorder").decode(errors="replace") != sys.byteorder:
            raise Beyond("its numbers are in the byte order of another kind of machine")

    def read(self, name: str) -> bytes:
        """Raises ArtifactCorrupt (it is damaged), Beyond (there is none)."""
        try:
            info = self._zip.getinfo(self._root + name)
        except KeyError:
            raise Beyond(f"it has no {name}") from None
        if info.compress_type != zipfile.ZIP_STORED:  # PyTorch stores; compressed, a small file could become a huge one
            raise ArtifactCorrupt(f"{name} of the program's archive is compressed")
        try:
            return self._zip.read(info)
        except UNREADABLE as error:
            raise ArtifactCorrupt(f"{name} of the program's archive is damaged: {error}") from error

    def note(self) -> Note:
        """Empty where there is none."""
        try:
            told = self.read(f"extra/{NOTE}")
        except Beyond:
            return Note()
        return read_note(told)

    def program(self) -> GraphModule:
        exported: Exported = _decoded(self.read("models/model.json"), Exported)
        version = exported.schema_version.get("major")
        if version != SCHEMA:
            raise Beyond(f"its format has version {version}, and what is known here is {SCHEMA}")
        return exported.graph_module

    def tensors(self) -> dict[str, Any]:
        """Weights, buffers and constants by their names, each on the storage that it shares with others."""
        found = self._tensors("data/weights/", "model_weights_config.json")
        return found | self._tensors("data/constants/", "model_constants_config.json")

    def _tensors(self, folder: str, config: str) -> dict[str, Any]:
        storages: dict[tuple[str, int], Any] = {}
        found = {}
        for name, each in _decoded(self.read(folder + config), PayloadConfig).config.items():
            if each.use_pickle or each.tensor_meta is None:
                raise Beyond(f"{name} is kept as a pickle")
            where = (each.path_name, each.tensor_meta.dtype)
            if where not in storages:
                storages[where] = _storage(self.read(folder + each.path_name), each.tensor_meta.dtype, name)
            found[name] = _strided(storages[where], each.tensor_meta, name)
        return found


def dtype_of(number: int) -> Any:
    """PyTorch's type of a ScalarType. Raises Beyond for those that are rarely computed with."""
    import torch

    known = {
        1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
        8: torch.float64, 12: torch.bool, 13: torch.bfloat16, 28: torch.uint16, 34: torch.uint32, 35: torch.uint64,
    }  # fmt: skip
    if number not in known:
        raise Beyond(f"it has tensors of a type (ScalarType {number}) that is not known here")
    return known[number]


def whole(size: Size) -> int:
    """A size that is a number. Raises ArtifactCorrupt."""
    if size.as_int is None:
        raise ArtifactCorrupt("a weight of the program has no fixed size")
    return size.as_int


def _storage(data: bytes, dtype: int, name: str) -> Any:
    import torch

    kind = dtype_of(dtype)
    if len(data) % kind.itemsize:
        raise ArtifactCorrupt(f"the bytes of {name} are no whole number of values")
    if not data:
        return torch.zeros(0, dtype=kind)
    return torch.frombuffer(bytearray(data), dtype=kind)


def _strided(storage: Any, meta: TensorMeta, name: str) -> Any:
    """A view that PyTorch checks against the storage's end."""
    try:
        sizes, strides = [whole(size) for size in meta.sizes], [whole(stride) for stride in meta.strides]
        return storage.as_strided(sizes, strides, whole(meta.storage_offset))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"the shape of {name} does not fit its bytes: {error}") from error


def _decoded(data: str | bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactCorrupt(f"the program's archive cannot be read: {error}") from error
