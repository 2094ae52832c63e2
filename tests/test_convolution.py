"""The convolution whose kernel's gradient is made of products on CPU, beside XLA's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg import parallel
from jaxseg.models.convolution import add_bias, convolve

RNG = np.random.default_rng(0)
TWO, THREE = ((2, 2, 3, 8), ((1, 0), (1, 0))), ((3, 3, 2, 128), ((1, 1), (1, 1)))


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def by_xla(x, kernel, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=numbers)


def curved(convolution, padding):
    """A function whose derivatives of every order depend on both arguments."""
    return lambda x, kernel: jnp.sin(convolution(x, kernel, padding)).sum()


def close(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(("shape", "padding"), [TWO, THREE])
def test_values_and_gradients_are_those_of_xlas_convolution(shape, padding):
    x, kernel = normal(2, 5, 7, shape[2]), normal(*shape)
    close(jax.jit(partial(convolve, padding=padding))(x, kernel), by_xla(x, kernel, padding))
    ours, theirs = (jax.grad(curved(f, padding), (0, 1)) for f in (convolve, by_xla))
    close(jax.jit(ours)(x, kernel), jax.jit(theirs)(x, kernel))
    # Not only where all is compiled together.
    close(ours(x, kernel), theirs(x, kernel))


def test_products_are_what_a_cpu_computes_and_a_convolution_what_others_do():
    shape, padding = THREE
    x, kernel = normal(2, 4, 4, shape[2]), normal(*shape)
    traced = jax.jit(jax.grad(curved(convolve, padding), 1)).trace(x, kernel)

    def operations(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.dot_general"), text.count("stablehlo.convolution")

    assert operations("cpu") == (9, 1)
    assert operations("tpu") == operations("cuda") == (0, 2)


@pytest.mark.parametrize(("shape", "padding"), [TWO, THREE])
def test_forward_mode_and_second_derivatives_are_those_of_xlas_convolution(shape, padding):
    x, kernel = normal(1, 4, 4, shape[2]), normal(*shape)
    along = (normal(*x.shape), normal(*kernel.shape))

    def derivatives(convolution):
        function = curved(convolution, padding)
        first = jax.jvp(function, (x, kernel), along)[1]
        second = jax.jvp(jax.grad(function, (0, 1)), (x, kernel), along)[1]
        return first, second

    close(jax.jit(derivatives, static_argnums=0)(convolve), derivatives(by_xla))


def test_mapped_over_either_argument_it_is_the_loop():
    shape, padding = TWO
    x, kernel = normal(3, 1, 4, 4, shape[2]), normal(3, *shape)
    gradient = jax.grad(curved(convolve, padding), 1)
    close(jax.vmap(gradient)(x, kernel), jnp.stack([gradient(x[i], kernel[i]) for i in range(3)]))
    shared = jax.vmap(gradient, (0, None))(x, kernel[0])
    close(shared, jnp.stack([gradient(one, kernel[0]) for one in x]))


@pytest.mark.parametrize("axes", [P("data"), P(None, "data")])
def test_films_and_rows_may_be_shared_out_over_devices(axes):
    shape, padding = THREE
    mesh = parallel.make_mesh()
    x, kernel = normal(8, 16, 4, shape[2]), normal(*shape)
    gradient = jax.jit(jax.grad(curved(convolve, padding), 1))
    shared = gradient(jax.device_put(x, NamedSharding(mesh, axes)), kernel)
    close(shared, jax.grad(curved(by_xla, padding), 1)(x, kernel))


def test_under_shard_map_gradients_are_summed_over_devices_once():
    shape, padding = THREE
    mesh = parallel.make_mesh()
    x, kernel = normal(8, 4, 4, shape[2]), normal(*shape)
    own = jax.shard_map(
        jax.grad(curved(convolve, padding), 1),
        mesh=mesh, in_specs=(P("data"), P()), out_specs=P(),
    )  # fmt: skip
    close(jax.jit(own)(x, kernel), jax.grad(curved(by_xla, padding), 1)(x, kernel))


def test_where_types_tell_how_arrays_lie_it_still_works():
    shape, padding = THREE
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    x, kernel = normal(8, 4, 4, shape[2]), normal(*shape)
    expected = jax.grad(curved(by_xla, padding), 0)(x, kernel)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P("data")))
        close(jax.jit(jax.grad(curved(convolve, padding), 0))(x, kernel), expected)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        ("float32", "bfloat16"),
        ("float16", "bfloat16"),
        ("bfloat16", "float32"),
        ("float64", "float32"),
        ("float32", "float64"),
    ],
)
def test_gradients_of_parameters_of_another_dtype_are_rounded_once(dtype, kept):
    shape, padding = TWO

    def whole(most, *shape):
        """Numbers whose products and sums are exact, so that no order of summing tells."""
        return jnp.asarray(RNG.integers(-most, most + 1, shape)).astype(dtype)

    with jax.enable_x64(True):
        x, cotangent = whole(4, 2, 5, 7, shape[2]), whole(2000, 2, 5, 7, shape[3])
        kernel, bias = (whole(4, *of).astype(kept) for of in (shape, shape[3:]))
        backward = jax.vjp(lambda x, k, b: add_bias(convolve(x, k, padding), b), x, kernel, bias)[1]
        to_x, to_kernel, to_bias = backward(cotangent)
        x, kernel, cotangent = (array.astype(jnp.float64) for array in (x, kernel, cotangent))
        exact = jax.vjp(partial(by_xla, padding=padding), x, kernel)[1](cotangent)
        near = float(jnp.finfo(dtype).eps) * float(jnp.abs(exact[0]).max())
        np.testing.assert_allclose(to_x.astype(jnp.float64), exact[0], atol=near)
        np.testing.assert_array_equal(to_kernel, exact[1].astype(kept))
        np.testing.assert_array_equal(to_bias, cotangent.sum((0, 1, 2)).astype(kept))
    assert (to_x.dtype, to_kernel.dtype, to_bias.dtype) == (dtype, kept, kept)
