"""PyTorch models: programs of `torch.export`, weights in safetensors with their code by import path, TorchScript.

What each may do when it is opened, and so whose trust it needs:

    .pt2           a graph and weights, read as data (`torch_archive`): none. One that holds pickles, or operators of libraries, is opened by
                   `torch.export.load`, which runs what its writer put in: `trust.pickle`.
    .safetensors   weights are data; the module's source goes along (`modules.Code`) and runs: `trust.code` must allow it.
    .pt            TorchScript names any operator that PyTorch has, those that read and write files among them: `trust.pickle`.

A model of one float input [-1, features] and an answer a row is asked by rows; any other by tensors. Answers are computed in inference
mode, on as many threads as the options say (1): PyTorch counts them for each thread that asks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, EverloopError, ModelFailed, NotSupported, Untrusted, explain
from everloop.core.schema import Schema, Target
from everloop.core.tensors import DATATYPES, Array
from everloop.runtime.artifact import Trust, library_versions, threads_of
from everloop.runtime.own_tensors import OwnTensors, Rows, TensorSession
from everloop.runtime.session import Matrix
from everloop.runtime.torch_answers import Answer, Reader, answer_of, checked_classes, find_answer, row_input, scale_of
from everloop.runtime.torch_program import Program
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
_WARM_RUNS = 3
_TYPES = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16}


class _Asked:
    """A program asked with arrays. Callable from several threads at once."""

    def __init__(self, program: Program, threads: int) -> None:
        import torch

        self._torch = torch
        self._program = program
        self._call = program.call
        self._threads = threads
        self._names = [spec.name for spec in program.signature.outputs]

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Any]:
        torch = self._torch
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            return self._call(*[torch.from_numpy(a if a.flags.writeable else a.copy()) for a in arrays])

    def outputs(self, arrays: list[Array], wanted: Sequence[str]) -> list[Array]:
        found = dict(zip(self._names, self(arrays), strict=True))
        return [found[name].numpy() for name in wanted]

    def warm(self) -> None:
        """Rows warm a lane, and tensors do not: so a model of tensors is asked here, as it was when it was saved. TorchScript compiles what
        it has seen twice."""
        specs, sizes = self._program.signature.inputs, self._program.sizes
        zeros = [np.zeros(size, DATATYPES[spec.datatype]) for size, spec in zip(sizes, specs, strict=True)]
        try:
            for _ in range(_WARM_RUNS):
                self(zeros)
        except Exception as error:
            log.info("a PyTorch model does not answer zeros, and starts cold: %s", explain(error))

    def close(self) -> None:
        self._call = _closed
        self._program.close()


class TorchSession:
    """A model that rows can fill."""

    def __init__(self, manifest: Manifest, program: Program) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        signature = program.signature
        self._kind: Any = _input_type(manifest, program)
        self.dtype: Any = np.float64 if self._kind is np.float64 else np.float32
        answer = answer_of(manifest.options, signature)
        if answer.task != manifest.task:
            raise ArtifactCorrupt("the model gives another kind of answer than its manifest tells")
        names = [out.name for out in signature.outputs]
        self._reader = Reader(answer, checked_classes(answer, signature, manifest.classes))
        self._answer = names.index(answer.output)
        self._scores = names.index(answer.scores) if answer.scores is not None and self.classes is not None else None
        self.scored = self._scores is not None
        self._asked = _Asked(program, threads_of(manifest))
        rows = Rows(answer.output, self._reader.read)
        self.tensors = OwnTensors(signature, self._asked.outputs, batched=program.batched, rows=rows)

    def run(self, X: Matrix) -> Matrix:
        out = self._asked((np.ascontiguousarray(X, self._kind),))[self._answer]
        return self._reader.read(out.numpy(), len(X))

    def scores(self, X: Matrix) -> NDArray[np.float64] | None:
        if self._scores is None:
            return None
        out = self._asked((np.ascontiguousarray(X, self._kind),))[self._scores]
        return self._reader.scores(out.numpy(), len(X))

    def close(self) -> None:
        self._asked.close()


def load(manifest: Manifest, payload: bytes, trust: Trust) -> TorchSession | TensorSession:
    """Raises ArtifactCorrupt, Untrusted, NotSupported, ModelFailed (its code raised)."""
    program = open_program(payload, trust)
    if manifest.task != "tensors":
        try:
            return TorchSession(manifest, program)
        except BaseException:
            program.close()
            raise
    asked = _Asked(program, threads_of(manifest))
    asked.warm()
    tensors = OwnTensors(program.signature, asked.outputs, batched=program.batched)
    return TensorSession(manifest.target, tensors, why_no_rows(program), asked.close)


def read_file(payload: bytes, trust: Trust) -> Manifest:
    """What a file tells of itself. Raises ArtifactCorrupt, Untrusted, NotSupported, InvalidInput."""
    program = open_program(payload, trust)
    try:
        return manifest_of(program)
    finally:
        program.close()


def manifest_of(program: Program) -> Manifest:
    """Of an open program and of what its note says: `feature_names`, `classes`. Raises InvalidInput, NotSupported."""
    libraries = library_versions("torch")
    if why_no_rows(program):
        return Manifest("torch", "tensors", Schema(()), Target("tensors"), libraries=libraries)
    names, classes = program.note.feature_names, program.note.classes
    first = row_input(program.signature)
    answer = find_answer(program.signature, classes)
    classes = checked_classes(answer, program.signature, classes)
    answer = _scaled(answer, program)
    if names is not None and len(names) != first.shape[1]:
        raise ArtifactCorrupt(f"the model takes {first.shape[1]} features, but the names of {len(names)} are told")
    target = Target("regression")
    if answer.task == "classification":
        target = Target("classification", "boolean" if _gives_bool(program, answer) else "integer")
        if classes:
            target = Target.infer("classification", classes[0])
    return Manifest(
        runtime="torch",
        task=answer.task,
        schema=Schema.of_names(names) if names else Schema.unnamed(first.shape[1]),
        target=target,
        classes=classes,
        libraries=libraries,
        options={"answer": msgspec.to_builtins(answer)},
    )


def why_no_rows(program: Program) -> str:
    """Why no row of features can fill it, or no output is an answer a row; empty where both are so."""
    try:
        row_input(program.signature)
        find_answer(program.signature, None)
    except NotSupported as error:
        return error.message
    return ""


def open_program(payload: bytes, trust: Trust) -> Program:
    """A payload of any of the three kinds. Raises ArtifactCorrupt, Untrusted, NotSupported, ModelFailed."""
    from everloop.runtime import torch_modules
    from everloop.runtime.sniff import look_at
    from everloop.runtime.torch_archive import Beyond
    from everloop.runtime.torch_program import read_program

    kind, what, _ = look_at(payload)
    if kind == "safetensors":
        return torch_modules.open_code(payload, trust)
    if kind == "torchscript":
        _check_trusted(trust, "TorchScript can name any operator that PyTorch has, those that write files among them")
        return torch_modules.open_script(payload)
    if kind != "torch_export":
        raise ArtifactCorrupt(f"this is {what}, and no PyTorch model")
    try:
        return read_program(payload)
    except Beyond as beyond:
        why = f"{beyond}, so that only torch.export.load could open the program, which unpickles parts of it"
        _check_trusted(trust, why)
        return torch_modules.open_export(payload)
    except EverloopError:
        raise
    except Exception as error:  # a forged archive can have anything anywhere
        raise ArtifactCorrupt(f"the program cannot be read: {type(error).__name__}: {error}") from error


def _check_trusted(trust: Trust, why: str) -> None:
    if not trust.pickle:
        raise Untrusted(
            f"{why}: loading it can run whatever its writer put in; pass trust_pickle=True (--trust-pickle) if you know where it comes from, "
            "or save the module with everloop.save_model(module, 'model.pt2', example=…)"
        )


def _scaled(answer: Answer, program: Program) -> Answer:
    spec = program.signature.inputs[0]
    asked = _Asked(program, 1)
    names = [out.name for out in program.signature.outputs]

    def ask(X: Matrix) -> Sequence[Any]:
        return [out.numpy() for out in asked([X.astype(_TYPES[spec.datatype])])]

    try:
        return scale_of(answer, ask, spec.shape[1], names)
    except EverloopError:
        raise
    except Exception as error:
        raise NotSupported(f"the model fails on rows of numbers: {type(error).__name__}: {error}") from error


def _gives_bool(program: Program, answer: Answer) -> bool:
    return any(out.name == answer.output and out.datatype == "BOOL" for out in program.signature.outputs)


def _input_type(manifest: Manifest, program: Program) -> Any:
    try:
        first = row_input(program.signature)
    except NotSupported as error:
        raise ArtifactCorrupt(f"the model is asked by tensors: {error.message}") from error
    if first.shape[1] != len(manifest.schema.fields):
        raise ArtifactCorrupt("the model takes another number of features than its manifest tells")
    return _TYPES[first.datatype]


def _closed(*_: Any) -> Any:
    raise ModelFailed("this PyTorch session is closed")
