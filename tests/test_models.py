"""The U-Net and its layers against Flax, Keras and closed forms."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.models import UNet, UpConv
from jaxseg.models.layers import Norm, glorot_uniform

SMALL = (4, 8, 12)


def initialized(model) -> Any:
    """Random variables that keep the signal, without compiling the initialization."""
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        if path[0].key == "batch_stats" or path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, shape.shape).astype(shape.dtype)
        if path[-1].key == "bias":
            return rng.uniform(0.0, 0.5, shape.shape).astype(shape.dtype)
        scale = (2 / np.prod(shape.shape[:-1])) ** 0.5
        return rng.normal(0, scale, shape.shape).astype(shape.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def applied(model, variables, x, **options) -> Any:
    return jax.jit(partial(model.apply, **options))(variables, x)


def number_of_parameters(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape, dtype=np.float32))


def test_the_default_unet_has_the_number_of_parameters_of_the_keras_baseline():
    variables = jax.eval_shape(UNet().init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    assert number_of_parameters(variables) == 2_158_417


def test_a_convolution_before_a_norm_has_no_bias():
    def params(norm):
        model = UNet(widths=SMALL, norm=norm, norm_groups=4)
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]

    plain = params("none")
    for norm in ("batch", "group", "instance"):
        normed = params(norm)
        # A scale and an offset replace the bias of each of the ten convolutions.
        convolution_biases = 2 * sum((4, 8, 12, 8, 4))
        assert number_of_parameters(normed) == number_of_parameters(plain) + convolution_biases
        assert "bias" not in normed["encoder_0"]["Conv_0"]


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1)])
def test_upconv_equals_flax_conv_transpose_in_values_and_gradients(shape):
    x = images(*shape)
    reference, fast = nn.ConvTranspose(5, (3, 3), strides=(2, 2)), UpConv(5)
    shapes = [jax.eval_shape(m.init, jax.random.key(1), x) for m in (reference, fast)]
    assert shapes[0] == shapes[1]
    variables = jax.tree.map(lambda leaf: images(*leaf.shape, seed=1) - 0.5, shapes[0])
    weights = images(shape[0], 2 * shape[1], 2 * shape[2], 5, seed=2)

    def values_and_gradients(layer):
        def weighted(variables, x):
            out = layer.apply(variables, x)
            return (out * weights).sum(), out

        return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(variables, x)

    ours, theirs = values_and_gradients(fast), values_and_gradients(reference)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("shape", [(3, 3, 4, 7), (2, 5)])
def test_glorot_uniform_equals_that_of_jax(shape):
    ours, theirs = (
        init(jax.random.key(3), shape)
        for init in (glorot_uniform, jax.nn.initializers.glorot_uniform())
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
def test_probabilities_equal_keras_from_the_same_weights(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed (extra: peers)")
    widths = (16, 32, 64, 128, 256)
    layers = keras.layers

    def convolution(x, features):
        for _ in range(2):
            x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
        return x

    inputs = x = keras.Input((32, 16, 1))
    skips = []
    for features, rate in zip(widths[:-1], (0.25, 0.5, 0.5, 0.5), strict=True):
        x = convolution(x, features)
        skips.append(x)
        x = layers.Dropout(rate)(layers.MaxPooling2D(2)(x))
    x = convolution(x, widths[-1])
    for features, skip in zip(widths[-2::-1], skips[::-1], strict=True):
        x = layers.Conv2DTranspose(features, 3, strides=2, padding="same")(x)
        x = layers.Dropout(0.5)(layers.Concatenate()([x, skip]))
        x = convolution(x, features)
    theirs = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    rng = np.random.default_rng(3)
    # He's scale keeps the signal from vanishing.
    theirs.set_weights(
        [
            rng.normal(0, 0.2 if w.ndim == 1 else (2 / w[..., 0].size) ** 0.5, w.shape)
            for w in theirs.get_weights()
        ]
    )
    assert theirs.count_params() == 2_158_417

    weighted = [layer for layer in theirs.layers if layer.get_weights()]
    kernels = {}
    names = [f"encoder_{level}" for level in range(4)] + ["bottleneck"]
    order: list[tuple[str, str | None]] = [(n, f"Conv_{i}") for n in names for i in range(2)]
    for level in reversed(range(4)):
        order += [(f"up_{level}", None), (f"decoder_{level}", "Conv_0")]
        order += [(f"decoder_{level}", "Conv_1")]
    order += [("head", None)]
    for (block, part), layer in zip(order, weighted, strict=True):
        kernel, bias = layer.get_weights()
        if isinstance(layer, layers.Conv2DTranspose):
            # Keras flips the kernel and keeps it as [rows, columns, out, in].
            kernel = kernel[::-1, ::-1].swapaxes(2, 3)
        leaves = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        if part is None:
            kernels[block] = leaves
        else:
            kernels.setdefault(block, {})[part] = leaves

    model = UNet(dropout=(0.25, 0.5, 0.5, 0.5), decoder_dropout=0.5)
    batch = images(2, 32, 16, 1)
    ours = jax.nn.sigmoid(applied(model, {"params": kernels}, batch))
    expected = np.asarray(theirs(np.asarray(batch), training=False))
    assert expected.std() > 0.01
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_any_image_size_works_as_with_edge_padding_by_hand():
    model, x = UNet(widths=SMALL, num_classes=3), images(2, 13, 3, 1)
    variables = initialized(model)
    logits = applied(model, variables, x)
    assert logits.shape == (2, 13, 3, 3)
    padded = np.pad(np.asarray(x), [(0, 0), (0, 3), (0, 1), (0, 0)], mode="edge")
    np.testing.assert_allclose(logits, applied(model, variables, padded)[:, :13, :3], atol=1e-6)


def test_uint8_images_are_divided_by_255():
    model = UNet(widths=(4, 8))
    variables = initialized(model)
    raw = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    as_float = jnp.asarray((raw / np.float32(255)).astype(np.float32))
    np.testing.assert_allclose(
        applied(model, variables, raw), applied(model, variables, as_float), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_bfloat16_network_has_float32_logits_and_parameters_near_those_of_float32(norm):
    full, half = (
        UNet(widths=(4, 8), norm=norm, norm_groups=2, dtype=dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    variables, batch = initialized(full), images(2, 8, 8, 1)
    reference, logits = applied(full, variables, batch), applied(half, variables, batch)
    assert reference.dtype == logits.dtype == jnp.float32
    shapes = jax.eval_shape(half.init, jax.random.key(0), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(logits, reference, atol=0.05 * float(jnp.abs(reference).max()))


def test_every_skip_carries_gradient_by_itself():
    model = UNet(widths=(4, 4, 4))
    x, params = images(1, 16, 16, 1), initialized(model)["params"]

    @jax.jit
    @jax.grad
    def gradients(params):
        logits: Any = model.apply({"params": params}, x)
        return jnp.square(logits).sum()

    for level in range(2):
        # Without the upsampling path, only the skip carries gradient to this level's encoder.
        gradient = gradients(
            params | {f"up_{level}": jax.tree.map(np.zeros_like, params[f"up_{level}"])}
        )
        below = "encoder_1" if level == 0 else "bottleneck"
        assert float(jnp.abs(gradient[f"encoder_{level}"]["Conv_0"]["kernel"]).max()) > 0
        assert float(jnp.abs(gradient[below]["Conv_0"]["kernel"]).max()) == 0


def test_the_receptive_field_spans_the_bottleneck():
    model = UNet(widths=SMALL)
    variables = initialized(model)

    def center(x):
        logits: Any = model.apply(variables, x)
        return logits[0, 16, 16, 0]

    reach = np.abs(np.asarray(jax.jit(jax.grad(center))(images(1, 32, 32, 1))))[0, :, :, 0] > 0
    assert reach[16 - 8 : 16 + 8, 16 - 8 : 16 + 8].mean() > 0.9


def normalized_by_numpy(kind, x, groups):
    if kind == "group":
        x = x.reshape(*x.shape[:3], groups, -1)
        axes = (1, 2, 4)
    else:
        axes = (0, 1, 2) if kind == "batch" else (1, 2)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_norms_equal_their_formula(kind):
    x = images(4, 5, 7, 6)
    norm = Norm(kind, 2, None, jnp.float32, jnp.float32)
    init = jax.jit(partial(norm.init_with_output, train=True))
    out, updated = init(jax.random.key(0), x)
    expected = normalized_by_numpy(kind, np.asarray(x, np.float64), 2).reshape(x.shape)
    # GroupNorm and InstanceNorm add 1e-6, not 1e-5, to the variance.
    np.testing.assert_allclose(out, expected, atol=2e-4)
    assert ("batch_stats" in updated) == (kind == "batch")


def test_batch_norm_keeps_running_statistics_with_momentum_0_9():
    x = images(4, 5, 7, 3)
    norm = Norm("batch", 1, None, jnp.float32, jnp.float32)
    # Means 0, variances and scales 1.
    variables = {
        "params": {
            "BatchNorm_0": {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
        },
        "batch_stats": {
            "BatchNorm_0": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
        },
    }
    _, updated = applied(norm, variables, x, train=True, mutable=["batch_stats"])
    (statistics,) = updated["batch_stats"].values()
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(statistics["mean"], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * exact.var((0, 1, 2)), rtol=1e-5)
    out = applied(norm, {**variables, **updated}, x, train=False)
    mean, variance = (np.asarray(statistics[name])[None, None, None] for name in ("mean", "var"))
    np.testing.assert_allclose(out, (exact - mean) / np.sqrt(variance + 1e-5), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "layers"), [({"dropout": (0.5, 0.0)}, 1), ({"decoder_dropout": 0.5}, 2), ({}, 0)]
)
def test_dropout_acts_after_poolings_and_concatenations_in_training_only(options, layers):
    model, x = UNet(widths=SMALL, **options), images(2, 8, 8, 1)
    plain = UNet(widths=SMALL)
    variables = initialized(plain)
    keys = {"dropout": jax.random.key(1)}
    drawn = str(jax.make_jaxpr(partial(model.apply, train=True, rngs=keys))(variables, x))
    assert drawn.count("random_bits") == layers
    evaluated, expected = (str(jax.make_jaxpr(m.apply)(variables, x)) for m in (model, plain))
    assert "random_bits" not in expected
    assert evaluated == expected


def test_deep_supervision_gives_logits_of_every_level_and_in_evaluation_the_finest():
    model, x = UNet(widths=SMALL, deep_supervision=True), images(2, 13, 10, 1)
    variables = initialized(model)
    logits = applied(model, variables, x, train=True)
    assert [level.shape for level in logits] == [(2, 13, 10, 1), (2, 7, 5, 1)]
    finest = applied(model, variables, x)
    np.testing.assert_allclose(finest, logits[0], atol=1e-6)
    del variables["params"]["head_1"]
    np.testing.assert_array_equal(finest, applied(UNet(widths=SMALL), variables, x))


def value_and_gradients(model, variables, x):
    """Of the sum of squared logits, as a function of the parameters."""

    def loss(params):
        logits, updated = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return jnp.square(logits).sum(), (logits, updated)

    return jax.value_and_grad(loss, has_aux=True)


@pytest.mark.slow
def test_remat_changes_neither_values_nor_gradients_nor_parameters():
    x = images(2, 8, 16, 1)
    options = {"widths": (2, 4), "norm": "batch", "dropout": 0.25, "decoder_dropout": 0.5}
    plain, again = UNet(**options), UNet(**options, remat=(0, 1))
    variables = initialized(plain)
    shapes = [jax.eval_shape(m.init, jax.random.key(0), x) for m in (plain, again)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    functions = [value_and_gradients(m, variables, x) for m in (plain, again)]
    theirs, ours = (jax.jit(function)(variables["params"]) for function in functions)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    # The backward pass repeats at least the two convolutions of each block on the way down.
    without, with_remat = (
        str(jax.make_jaxpr(function)(variables["params"])).count("conv_general")
        for function in functions
    )
    assert with_remat >= without + 4


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"remat": (5,)}, (1, 16, 16, 1), "remat names level 5; levels are 0 to 4"),
        ({"norm": "layer"}, (1, 16, 16, 1), "norm is 'layer'"),
        ({"norm": "group", "widths": (4, 12)}, (1, 8, 8, 1), "norm_groups is 8, which does not"),
        ({"dropout": (0.1, 0.2)}, (1, 16, 16, 1), "dropout has 2 rates, .* has 4 poolings"),
        ({"dropout": 1.0}, (1, 16, 16, 1), r"dropout rate 1.0 is outside \[0, 1\)"),
        ({"decoder_dropout": -0.1}, (1, 16, 16, 1), r"dropout rate -0.1 is outside \[0, 1\)"),
        ({"widths": (4,)}, (1, 16, 16, 1), "must have two levels or more"),
        ({}, (16, 16, 1), r"images has shape \(16, 16, 1\)"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_an_invalid_network_or_input_is_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(UNet(**options).init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.usefixtures("unchecked_types")
def test_integer_images_other_than_uint8_are_refused():
    with pytest.raises(ValueError, match="images has dtype int32"):
        UNet(widths=SMALL).init(jax.random.key(0), jnp.zeros((1, 16, 16, 1), jnp.int32))
