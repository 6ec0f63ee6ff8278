"""What the Open Inference Protocol can ask, without a protocol in it: the verbs that HTTP and gRPC share.

A codec makes `InferAsked` of what came over the wire, `infer` answers it, a codec writes `InferAnswer`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everloop.core.tensors import Tensor


class OutputAsked(msgspec.Struct):
    name: str
    binary: bool = False
    """HTTP: whether its data shall follow the JSON as bytes."""
    classification: int = 0
    """Triton's extension: the best so many classes instead of the scores; 0: the tensor as it is."""


class InferAsked(msgspec.Struct):
    """One request: arrays are decoded and have the size that their shape says; whether the model takes them, `infer` checks."""

    model: str
    inputs: list[Tensor]
    version: str = ""
    """A number or a name; empty: whichever the routing chooses."""
    id: str = ""
    outputs: list[OutputAsked] | None = None
    """None or none: all."""
    binary_output: bool = False
    """HTTP: what an output does that does not say."""
    parameters: dict[str, Any] = {}
    """`timeout` (microseconds), `unit`; others are let pass."""


class InferAnswer(msgspec.Struct):
    model: str
    version: int
    outputs: list[Tensor]
    id: str = ""
    """The caller's, if it gave one; else the request id."""
    request_id: str = ""
    """What a label refers to later."""
