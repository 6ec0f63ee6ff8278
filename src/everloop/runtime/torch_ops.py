"""Which operators of PyTorch a program may name without anybody's trust: those that compute answers from tensors, and nothing else.

A file that names operators is data only as long as no operator can do more than compute: `aten::from_file` opens files, `aten::empty` shows
what was in memory before, operators of libraries run their own code, and many private ones do not check their arguments. So the list is of
what is allowed: the Core ATen operators (PyTorch tags them) and those that `torch.export` leaves whole, each as PyTorch itself registers it.

Source: "Core ATen IR" in PyTorch's documentation, and `native_functions.yaml`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from everloop.runtime.torch_checked import checked

_NAMES = """
# layers
linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm instance_norm layer_norm
group_norm rms_norm dropout dropout_ alpha_dropout feature_dropout embedding prelu lstm gru rnn_tanh rnn_relu
scaled_dot_product_attention max_pool1d max_pool2d max_pool3d avg_pool1d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool2d pixel_shuffle pixel_unshuffle
upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d pad local_response_norm
channel_shuffle im2col unfold one_hot cosine_similarity pairwise_distance cdist
# activations
relu relu_ relu6 silu silu_ gelu gelu_ mish mish_ elu elu_ selu selu_ celu celu_ glu leaky_relu leaky_relu_ hardtanh hardtanh_
hardswish hardswish_ hardsigmoid hardsigmoid_ hardshrink softshrink softplus softsign log_sigmoid threshold threshold_ rrelu
sigmoid sigmoid_ tanh tanh_ softmax log_softmax logsumexp logaddexp
# element by element
add add_ sub sub_ rsub mul mul_ div div_ true_divide floor_divide remainder fmod pow pow_ square sqrt_ neg_ exp_ exp2 log_
abs_ absolute clamp_ clamp_min clamp_min_ clamp_max clamp_max_ clip erfc erfinv lerp addcmul addcdiv nan_to_num isfinite xlogy
sgn where masked_fill masked_fill_ maximum minimum frac deg2rad rad2deg hypot __and__ __or__ __xor__ eq ne lt le gt ge
isclose logit sinc round_ floor_ ceil_ reciprocal_ rsqrt_
# along axes
mean sum prod std var var_mean std_mean norm linalg_vector_norm min max aminmax argsort sort msort all any count_nonzero
cumprod cumsum cummax cummin logcumsumexp diff nansum nanmean median kthvalue bincount searchsorted bucketize
# products
matmul einsum mm bmm mv dot outer ger addmm addmv baddbmm addbmm tensordot kron chain_matmul linalg_multi_dot trace cross
# shape and place
reshape reshape_as view_as flatten unflatten contiguous t transpose swapaxes swapdims movedim permute squeeze unsqueeze
squeeze_ unsqueeze_ expand_as broadcast_to chunk tensor_split split split_with_sizes unbind narrow select slice detach detach_
lift_fresh_copy lift_fresh to type_as clone numpy_T mT adjoint ravel stack hstack vstack dstack concat concatenate column_stack
repeat_interleave tile roll rot90 fliplr flipud meshgrid index_add index_fill index_copy index_put_ take_along_dim take
scatter scatter_ scatter_add_ diag diag_embed tril triu tril_ triu_ copy_ fill_ zero_ _unsafe_view alias
# made anew
zeros ones full eye arange linspace tril_indices triu_indices zeros_like ones_like full_like new_zeros new_ones new_full
# of sizes and of what must hold
sym_size sym_numel sym_stride item _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
"""
_WHOLE = frozenset(word for line in _NAMES.splitlines() if not line.startswith("#") for word in line.split())
_NEVER = ("empty", "resize", "set_", "from_file")
"""Of the tagged ones: what shows or moves memory."""
_PRIVATE = (
    "_softmax",
    "_log_softmax",
    "_to_copy",
    "_unsafe_view",
    "_local_scalar_dense",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
)
"""Private operators that check their arguments; of the others some do not, since the public ones that call them do."""
_OF_SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in [
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and_",
        "or_",
    ]
}
_CHECKED_BEFORE = ("_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")


def operator_of(target: str) -> Callable[..., Any] | None:
    """What a node's target (`torch.ops.aten.linear.default`, `_operator.mul`) names, if it is allowed; None otherwise."""
    import torch

    if target in _OF_SIZES:
        return _OF_SIZES[target]
    if target in ("torch.sym_max", "torch.sym_min", "torch.sym_not", "torch.sym_float", "torch.sym_int"):
        made: Callable[..., Any] = getattr(torch, target.partition(".")[2])
        return made
    parts = target.split(".")
    if len(parts) != 5 or parts[:3] != ["torch", "ops", "aten"]:
        return None
    name, overload = parts[3:]
    if name.startswith(_NEVER) or name.endswith("_backward") or "out" in overload.split("_"):
        return None
    if name.startswith("_") and name not in _PRIVATE and name not in _WHOLE:
        return None
    if overload == "data":  # of a recurrent layer: packed sequences, whose lengths nothing checks
        return None
    found: Any = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        return None
    if name not in _WHOLE and torch.Tag.core not in found.tags:
        return None
    if any(argument.is_out for argument in found._schema.arguments):
        return None
    return checked(name, found)


def says_nothing(target: str) -> bool:
    """Whether it only asserts what was known when the program was exported."""
    return target.split(".")[3:4] != [] and target.split(".")[3] in _CHECKED_BEFORE
