"""A PyTorch artifact as a module that answers as its session does: what an exporter to another format takes."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any

from everloop.core.errors import NotSupported
from everloop.runtime.artifact import Trust
from everloop.runtime.torch import open_program
from everloop.runtime.torch_answers import Answer, answer_of
from everloop.runtime.torch_program import Program
from everloop.stores.ports import Manifest

PROBABILITIES, PREDICTION = "probabilities", "prediction"


def answering_module(
    manifest: Manifest, payload: bytes, trust: Trust
) -> tuple[Any, tuple[Any, ...], list[str], list[str]]:
    """The module, example inputs, and the names of its inputs and outputs.

    Outputs are the program's own, by their names, so that who asks it by tensors goes on. Where no output of its own is what rows are
    answered with, that comes first: of a classifier (n, classes) `probabilities` in the order of `manifest.classes`, of a regression (n,)
    of `prediction`. Raises NotSupported (it answers labels and no scores; it is TorchScript), and as `open_program`."""
    import torch

    program = open_program(payload, trust)
    if program.script:
        raise NotSupported("TorchScript cannot be traced again: save the module as .pt2")
    example = tuple(
        torch.zeros(size, dtype=_dtype(spec.datatype))
        for size, spec in zip(program.sizes, program.signature.inputs, strict=True)
    )
    inputs = [spec.name for spec in program.signature.inputs]
    names = [spec.name for spec in program.signature.outputs]
    if manifest.task == "tensors":
        return _Wrapped(program, None, 0), example, inputs, names
    answer = answer_of(manifest.options, program.signature)
    if answer.how == "label":
        raise NotSupported("it answers with labels, and not with a score a class")
    if len(names) == 1 and (answer.how == "value" or (answer.how == "argmax" and answer.scale == "given")):
        return _Wrapped(program, None, 0), example, inputs, names
    told = PREDICTION if answer.how == "value" else PROBABILITIES
    while told in names:
        told = f"{told}_"
    return _Wrapped(program, answer, names.index(answer.scores or answer.output)), example, inputs, [told, *names]


def _dtype(datatype: str) -> Any:
    import torch

    known = {"FP32": "float32", "FP64": "float64", "FP16": "float16", "BOOL": "bool"}
    return getattr(torch, known.get(datatype, datatype.lower()))


def _Wrapped(program: Program, answer: Answer | None, at: int) -> Any:  # noqa: N802  a class that cannot be defined without PyTorch
    import torch

    class Answering(torch.nn.Module):  # type: ignore[misc]  # PyTorch tells no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner = program.module

        def forward(self, *tensors: Any) -> Any:
            outputs = program.call(*tensors)
            if answer is None:
                return tuple(outputs)
            out = outputs[at].reshape(outputs[at].shape[0], -1)  # `len` would make a constant of the batch
            if answer.how == "value":
                return out[:, 0], *outputs
            if answer.scale == "exp":
                out = out.exp()
            elif answer.scale == "softmax":
                out = out.softmax(1)
            elif answer.scale == "logistic":
                out = out.sigmoid()
            out = torch.cat([1 - out, out], 1) if answer.how == "threshold" else out
            return out, *outputs

    # The tracer pairs inputs with what it is told of their axes by name, and has no name for those of `*tensors`.
    names = ["self", *(f"input_{i}" for i in range(len(program.signature.inputs)))]
    signature = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    Answering.forward.__signature__ = signature  # type: ignore[attr-defined]
    return Answering().eval()
