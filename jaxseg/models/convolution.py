"""The convolution of stride 1 that the layers are made of; its kernel's gradient is float32."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jaxtyping import Float

Padding = Sequence[tuple[int, int]]


def convolve(
    x: Float[jax.Array, "B H W C"],
    kernel: Float[jax.Array, "R S C D"],
    padding: Padding,
    *,
    dilation: tuple[int, int] = (1, 1),
) -> Float[jax.Array, "B _ _ D"]:
    """Convolves in the dtype of ``x``.

    Where the kernel's is wider, its gradient is summed in the kernel's, over pixels and, after
    them, over devices. By `jax.lax`'s own rule a bfloat16 convolution's would be rounded to
    bfloat16 before it is summed over devices. Then it has no forward-mode derivative.

    Args:
        x: Features.
        kernel: Of ``x``'s dtype or a wider one.
        padding: Zeros before and after, along the height and along the width.
        dilation: Distance from each pixel of ``x`` to the next, with zeros in between.

    Returns:
        Features of ``x``'s dtype.
    """
    if x.dtype == kernel.dtype:
        return _convolve(x, kernel, padding, dilation)
    return _mixed(tuple(padding), dilation, x, kernel)


def _convolve(x: Any, kernel: Any, padding: Padding, dilation: tuple[int, int]) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        padding,
        lhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mixed(padding: Padding, dilation: tuple[int, int], x: Any, kernel: Any) -> jax.Array:
    return _convolve(x, kernel.astype(x.dtype), padding, dilation)


def _mixed_forward(padding: Padding, dilation: tuple[int, int], x: Any, kernel: Any) -> Any:
    return _mixed(padding, dilation, x, kernel), (x, kernel)


def _mixed_backward(
    padding: Padding, dilation: tuple[int, int], kept: Any, cotangent: Any
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    narrow = kernel.astype(x.dtype)
    (to_x,) = jax.linear_transpose(lambda x: _convolve(x, narrow, padding, dilation), x)(cotangent)
    # Channels stand where rows of the batch stood and the other way round.
    to_kernel = jax.lax.conv_general_dilated(
        x,
        cotangent,
        (1, 1),
        padding,
        lhs_dilation=dilation,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=kernel.dtype,
    )
    return to_x, to_kernel


_mixed.defvjp(_mixed_forward, _mixed_backward)


def add_bias(
    x: Float[jax.Array, "B H W C"], bias: Float[jax.Array, "C"]
) -> Float[jax.Array, "B H W C"]:
    """Adds in the dtype of ``x``; a wider bias has its gradient summed in its own, as a kernel."""
    return x + bias[None, None, None] if x.dtype == bias.dtype else _add_mixed(x, bias)


@jax.custom_vjp
def _add_mixed(x: Any, bias: Any) -> jax.Array:
    return x + bias.astype(x.dtype)[None, None, None]


def _add_forward(x: Any, bias: Any) -> Any:
    return _add_mixed(x, bias), bias


def _add_backward(bias: Any, cotangent: Any) -> tuple[jax.Array, jax.Array]:
    return cotangent, cotangent.astype(bias.dtype).sum((0, 1, 2))


_add_mixed.defvjp(_add_forward, _add_backward)
