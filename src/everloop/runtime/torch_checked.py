"""Operators that PyTorch runs without a look at the shapes they are given, with that look.

`aten::lstm` hands its weights to oneDNN as if they had the sizes that it wants, and `scaled_dot_product_attention` reads as many values as
there are keys: a forged program could so read beyond its tensors, or end the process. `upsample_*` turns a scale into an index. What a
module of `torch.nn` gives them always passes. (Found by calling every allowed operator with arguments of all shapes.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everloop.core.errors import ModelFailed

Function = Callable[..., Any]
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_LEAST_SCALE, _MOST_SCALE = 1e-4, 1e4


def checked(name: str, function: Any) -> Function:
    """The operator `name`, or what looks before it calls it; its `_schema` is kept."""
    made: Any = function
    if name in _GATES:
        made = _recurrent(function, _GATES[name])
    elif name == "scaled_dot_product_attention":
        made = _attention(function)
    elif name.startswith("upsample_"):
        made = _upsampling(function)
    if made is not function:
        made._schema = function._schema
    asked: Function = made
    return asked


def _recurrent(function: Function, gates: int) -> Function:
    def run(  # noqa: PLR0917  the operator's own arguments
        input: Any,  # noqa: A002
        hx: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        states = list(hx) if gates == 4 else [hx]
        directions = 2 if bidirectional else 1
        each = 4 if has_biases else 2
        _hold(input.ndim == 3 and len(states) == (2 if gates == 4 else 1) and all(s.ndim == 3 for s in states))
        _hold(num_layers > 0 and len(params) == num_layers * directions * each)
        hidden, batch, width = states[0].shape[2], input.shape[0 if batch_first else 1], input.shape[2]
        _hold(all(tuple(s.shape) == (num_layers * directions, batch, hidden) for s in states))
        rows = gates * hidden
        wanted: list[tuple[int, ...]] = []
        for layer in range(num_layers):
            wide = width if layer == 0 else hidden * directions
            wanted += [(rows, wide), (rows, hidden), (rows,), (rows,)][:each] * directions
        _hold([tuple(p.shape) for p in params] == wanted)
        _hold(all(p.dtype == input.dtype for p in (*params, *states)))
        solid = [s.contiguous() for s in states]
        return function(
            input.contiguous(),
            solid if gates == 4 else solid[0],
            [p.contiguous() for p in params],
            has_biases,
            num_layers,
            dropout,
            train,
            bidirectional,
            batch_first,
        )

    return run


def _attention(function: Function) -> Function:
    import torch

    def run(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        q, k, v = query.shape, key.shape, value.shape
        _hold(len(q) == len(k) == len(v) >= 2 and q[-1] == k[-1] and k[:-1] == v[:-1])
        _hold(q[:-2] == k[:-2] or (kwargs.get("enable_gqa") is True and q[:-3] == k[:-3]))
        if attn_mask is not None:
            scores = (*q[:-1], k[-2])
            _hold(tuple(torch.broadcast_shapes(attn_mask.shape, scores)) == scores)
        return function(query, key, value, attn_mask, *args, **kwargs)

    return run


def _upsampling(function: Function) -> Function:
    def run(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            for scale in value if isinstance(value, (list, tuple)) else (value,):
                _hold(not isinstance(scale, float) or _LEAST_SCALE <= scale <= _MOST_SCALE)
        return function(*args, **kwargs)

    return run


def _hold(fits: bool) -> None:
    if not fits:
        raise ModelFailed("an operator of the program is given tensors of shapes that do not fit each other")
