"""The convolution of stride 1 that the layers are made of, and its kernel's gradient.

The gradient is summed in float32, and on CPU it is computed from matrix products where XLA's own
way, a convolution with a window of the whole picture, is several times slower.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
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

    Where the kernel's is another, its gradient is summed over pixels in a dtype that holds both
    and, after them, over devices in the kernel's. By `jax.lax`'s own rule a bfloat16 convolution's
    would be rounded to bfloat16 before it is summed over devices. Then it has no forward-mode
    derivative.

    Args:
        x: Features.
        kernel: Of any float dtype.
        padding: Zeros before and after, along the height and along the width.
        dilation: Distance from each pixel of ``x`` to the next, with zeros in between.

    Returns:
        Features of ``x``'s dtype.
    """
    if x.dtype == kernel.dtype:
        if _has_fast_gradient(x, kernel, dilation):
            return _by_products_p.bind(x, kernel, padding=tuple(padding))
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


def _has_fast_gradient(x: Any, kernel: Any, dilation: tuple[int, int]) -> bool:
    """Whether on CPU matrix products give the kernel's gradient sooner: benchmarks/README.md."""
    if x.dtype != jnp.float32 or dilation != (1, 1):
        return False
    # Where types tell over which devices values vary or lie, XLA's operation has rules of its own.
    if jax.sharding.get_abstract_mesh().manual_axes:
        return False
    if any(axis for array in (x, kernel) for axis in jax.typeof(array).sharding.spec):
        return False
    return kernel.shape[:2] == (2, 2) or (kernel.shape[:2] == (3, 3) and kernel.shape[3] >= 128)


# A primitive, because `jax.custom_vjp` would leave it without forward-mode derivatives.
_by_products_p = Primitive("convolution_with_gradient_by_products")


def _plain(x: Any, kernel: Any, *, padding: Padding) -> jax.Array:
    return _convolve(x, kernel, padding, (1, 1))


def _shape(x: Any, kernel: Any, *, padding: Padding) -> Any:
    out = jax.eval_shape(partial(_plain, padding=padding), x, kernel)
    return x.update(shape=out.shape, dtype=out.dtype)


def _to_input(cotangent: Any, x: Any, kernel: Any, *, padding: Padding) -> jax.Array:
    forward = partial(_plain, kernel=kernel, padding=padding)
    return jax.linear_transpose(forward, jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype))(
        cotangent
    )[0]


def _to_kernel(cotangent: Any, x: Any, kernel: Any, *, padding: Padding) -> jax.Array:
    shape, dtype = kernel.aval.shape, kernel.aval.dtype

    def by_convolution(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        forward = partial(_plain, x, padding=padding)
        return jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, dtype))(cotangent)[0]

    def by_products(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        """A product for each tap, over all pixels of all films."""
        height, width = cotangent.shape[1:3]
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        taps = []
        for row in range(shape[0]):
            for column in range(shape[1]):
                moved = padded[:, row : row + height, column : column + width]
                # Without the barrier XLA computes the slice again within the product.
                moved = jax.lax.optimization_barrier(moved)
                taps.append(
                    jax.lax.dot_general(moved, cotangent, (((0, 1, 2), (0, 1, 2)), ((), ())))
                )
        return jnp.stack(taps).reshape(shape)

    return jax.lax.platform_dependent(x, cotangent, cpu=by_products, default=by_convolution)


def _batched(arrays: Any, axes: Any, *, padding: Padding) -> tuple[jax.Array, int]:
    return jax.vmap(partial(_plain, padding=padding), in_axes=axes)(*arrays), 0


_by_products_p.def_impl(_plain)
_by_products_p.def_abstract_eval(_shape)
ad.defbilinear(_by_products_p, _to_input, _to_kernel)
batching.primitive_batchers[_by_products_p] = _batched
mlir.register_lowering(_by_products_p, mlir.lower_fun(_plain, multiple_results=False))


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
        preferred_element_type=_wider(x, kernel),
    )
    return to_x, to_kernel.astype(kernel.dtype)


_mixed.defvjp(_mixed_forward, _mixed_backward)


def _wider(x: Any, parameter: Any) -> jnp.dtype:
    """A dtype that holds both, also where the caller lets nothing promote."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(x.dtype, parameter.dtype)


def add_bias(
    x: Float[jax.Array, "B H W C"], bias: Float[jax.Array, "C"]
) -> Float[jax.Array, "B H W C"]:
    """Adds in the dtype of ``x``; the bias's gradient is summed as `convolve`'s kernel's is."""
    return x + bias[None, None, None] if x.dtype == bias.dtype else _add_mixed(x, bias)


@jax.custom_vjp
def _add_mixed(x: Any, bias: Any) -> jax.Array:
    return x + bias.astype(x.dtype)[None, None, None]


def _add_forward(x: Any, bias: Any) -> Any:
    return _add_mixed(x, bias), bias


def _add_backward(bias: Any, cotangent: Any) -> tuple[jax.Array, jax.Array]:
    wide = cotangent.astype(_wider(cotangent, bias))
    return cotangent, wide.sum((0, 1, 2)).astype(bias.dtype)


_add_mixed.defvjp(_add_forward, _add_backward)
