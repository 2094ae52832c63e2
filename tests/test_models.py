"""The U-Net and its layers against Flax, Keras and what its definition implies."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.models import Dropout, UNet, UpConv, unet
from jaxseg.models.dropout import bits_and_threshold
from jaxseg.models.layers import BatchNorm, glorot_uniform, rates_per_level

SMALL = (4, 8, 12)


def _initialised(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


initialised: Any = cache(_initialised)
"""Once for all tests of a model. (Type checkers cannot know that Linen's modules have a hash.)"""


def applied(model, variables, x, **options) -> Any:
    return jax.jit(partial(model.apply, **options))(variables, x)


def number_of_parameters(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape, dtype=np.float32))


def test_the_default_unet_has_the_seeds_number_of_parameters():
    variables = jax.eval_shape(UNet().init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    assert number_of_parameters(variables) == 2_158_417


def test_a_convolution_before_a_norm_has_no_bias():
    def params(norm):
        model = UNet(widths=SMALL, norm=norm)
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]

    plain = params("none")
    for norm in ("batch", "group", "instance"):
        normed = params(norm)
        # The bias of each of the ten convolutions gives way to a scale and an offset.
        convolution_biases = 2 * sum((4, 8, 12, 8, 4))
        assert number_of_parameters(normed) == number_of_parameters(plain) + convolution_biases
        assert "bias" not in normed["encoder_0"]["Conv_0"]


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1)])
def test_upconv_equals_flax_conv_transpose_in_values_and_gradients(shape):
    x = images(*shape)
    reference = nn.ConvTranspose(5, (3, 3), strides=(2, 2))
    fast = UpConv(5)
    variables = reference.init(jax.random.key(1), x)
    variables["params"]["bias"] = jnp.arange(5.0)
    weights = images(shape[0], 2 * shape[1], 2 * shape[2], 5, seed=2)

    def weighted(layer):
        return lambda variables, x: (layer.apply(variables, x) * weights).sum()

    np.testing.assert_allclose(
        applied(fast, variables, x), applied(reference, variables, x), rtol=0, atol=1e-5
    )
    ours = jax.jit(jax.grad(weighted(fast), argnums=(0, 1)))(variables, x)
    theirs = jax.jit(jax.grad(weighted(reference), argnums=(0, 1)))(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_upconv_initialises_the_parameters_of_conv_transpose():
    ours, theirs = (
        layer.init(jax.random.key(0), images(1, 4, 4, 3))["params"]
        for layer in (UpConv(5), nn.ConvTranspose(5, (3, 3), strides=(2, 2)))
    )
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)


@pytest.mark.parametrize("shape", [(3, 3, 4, 7), (1, 1, 16, 1), (2, 5)])
def test_glorot_uniform_draws_the_numbers_that_jax_draws(shape):
    ours, theirs = (
        init(jax.random.key(3), shape)
        for init in (glorot_uniform, jax.nn.initializers.glorot_uniform())
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_probabilities_equal_keras_from_the_same_weights(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed (extra: peers)")
    widths = (16, 32, 64, 128, 256)
    layers = keras.layers

    def convolution(x, features):
        for _ in range(2):
            x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
        return x

    inputs = x = keras.Input((64, 48, 1))
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
    # He's scale keeps the signal alive down to the output.
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
    films = images(2, 64, 48, 1)
    ours = jax.nn.sigmoid(applied(model, {"params": kernels}, films))
    expected = np.asarray(theirs(np.asarray(films), training=False))
    assert expected.std() > 0.01
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(13, 22), (3, 5)])
def test_any_size_gives_logits_of_that_size_as_edge_padding_by_hand_does(size):
    model = UNet(widths=SMALL, num_classes=3)
    x = images(2, *size, 1)
    variables = initialised(model)
    logits = applied(model, variables, x)
    assert logits.shape == (2, *size, 3)
    padding = [(0, 0), *((0, -side % 4) for side in size), (0, 0)]
    padded = applied(model, variables, np.pad(np.asarray(x), padding, mode="edge"))
    np.testing.assert_allclose(logits, padded[:, : size[0], : size[1]], atol=1e-6)


def test_uint8_images_are_divided_by_255():
    model = UNet(widths=SMALL)
    variables = initialised(model)
    raw = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    as_float = jnp.asarray((raw / np.float32(255)).astype(np.float32))
    np.testing.assert_allclose(
        applied(model, variables, raw), applied(model, variables, as_float), atol=1e-6
    )


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
def test_in_bfloat16_logits_and_parameters_are_float32_and_near_those_of_float32(norm):
    full, half = (UNet(widths=(4, 8), norm=norm, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    variables, films = initialised(full), images(2, 8, 8, 1)
    reference, logits = applied(full, variables, films), applied(half, variables, films)
    assert reference.dtype == logits.dtype == jnp.float32
    shapes = jax.eval_shape(half.init, jax.random.key(0), films)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(logits, reference, atol=0.05 * float(jnp.abs(reference).max()))


def test_every_skip_carries_gradient_by_itself():
    model = UNet(widths=(4, 4, 4, 4))
    x = images(1, 32, 32, 1)
    params = initialised(model)["params"]

    @jax.jit
    @jax.grad
    def gradients(params):
        return jnp.square(applied(model, {"params": params}, x)).sum()

    for level in range(3):
        # Cut the way up from below: whatever still reaches this level's encoder comes by its skip.
        cut = jax.tree.map(jnp.copy, params)
        cut[f"up_{level}"] = jax.tree.map(jnp.zeros_like, cut[f"up_{level}"])
        gradient = gradients(cut)
        assert float(jnp.abs(gradient[f"encoder_{level}"]["Conv_0"]["kernel"]).max()) > 0
        below = gradient[f"encoder_{level + 1}"] if level < 2 else gradient["bottleneck"]
        assert float(jnp.abs(below["Conv_0"]["kernel"]).max()) == 0


def test_the_receptive_field_spans_the_bottleneck():
    model = UNet(widths=SMALL)
    variables = initialised(model)

    def centre(x):
        return applied(model, variables, x)[0, 16, 16, 0]

    reach = np.abs(np.asarray(jax.jit(jax.grad(centre))(images(1, 32, 32, 1))))[0, :, :, 0] > 0
    assert reach[16 - 8 : 16 + 8, 16 - 8 : 16 + 8].mean() > 0.9


def test_batch_statistics_leave_padding_rows_out():
    model = UNet(widths=SMALL, norm="batch")
    variables = initialised(model)
    x = images(3, 16, 16, 1)
    padded = jnp.concatenate([x, 100 * jnp.ones((2, 16, 16, 1))])
    valid = jnp.array([True, True, True, False, False])
    train = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    alone, updated = train(variables, x)
    with_padding, updated_too = train(variables, padded, valid=valid)
    np.testing.assert_allclose(alone, with_padding[:3], atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updated, updated_too)
    ignored, _ = train(variables, padded)
    assert float(jnp.abs(ignored[:3] - alone).max()) > 1e-3


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax_in_values_gradients_and_running_statistics(train):
    x, valid = images(4, 5, 7, 3), jnp.array([True, False, True, True])
    params = {"scale": images(3, seed=1), "bias": images(3, seed=2)}
    statistics = {"mean": images(3, seed=3), "var": images(3, seed=4)}

    def objective(apply, params, x):
        y, updated = apply({"params": params, "batch_stats": statistics}, x)
        return jnp.where(valid[:, None, None, None], jnp.sin(y), 0.0).sum(), (y, updated)

    def ours(variables, x):
        return BatchNorm().apply(variables, x, train=train, valid=valid, mutable=["batch_stats"])

    def flax(variables, x):
        reference = nn.BatchNorm(use_running_average=not train, momentum=0.9)
        with jax.numpy_dtype_promotion("standard"):
            counted = valid[:, None, None, None]
            return reference.apply(variables, x, mask=counted, mutable=["batch_stats"])

    results = [
        jax.jit(jax.value_and_grad(partial(objective, apply), (0, 1), has_aux=True))(params, x)
        for apply in (ours, flax)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), *results)


def test_batch_norm_of_a_batch_with_no_row_that_counts_goes_by_what_it_knows():
    x, none = images(2, 4, 4, 3), jnp.zeros(2, bool)
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    variables["batch_stats"] = {"mean": images(3, seed=3), "var": images(3, seed=4)}
    y, updated = BatchNorm().apply(variables, x, train=True, valid=none, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, BatchNorm().apply(variables, x, train=False))
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(close, updated["batch_stats"], variables["batch_stats"])


def dropped(layer, x, rows=None) -> Any:
    return layer.apply({}, x, train=True, rows=rows, rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.8])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    x = jnp.ones((8, 64, 64, 2))
    out = dropped(Dropout(rate), x)
    np.testing.assert_allclose((out == 0).mean((1, 2, 3)), rate, atol=0.03)
    np.testing.assert_allclose(out.max(), 1 / (1 - rate), rtol=2e-5)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=False), x)


def test_dropout_of_a_row_depends_on_its_index_and_not_on_the_batch():
    x = jnp.ones((6, 8, 8, 2))
    whole, first = (dropped(Dropout(0.5), rows) for rows in (x, x[:3]))
    np.testing.assert_array_equal(whole[:3], first)
    assert len({np.asarray(row).tobytes() for row in whole}) == 6

    some = jnp.array([5, 0, 3])
    np.testing.assert_array_equal(dropped(Dropout(0.5), x[some], some), whole[some])


@pytest.mark.parametrize(
    ("rate", "bits", "dropped"),
    [(0.5, 1, 1), (0.25, 2, 1), (0.8125, 4, 13), (3 / 256, 8, 3), (0.1, 16, 6554), (1e-9, 16, 0)],
)
def test_a_rate_takes_no_more_bits_than_give_it(rate, bits, dropped):
    assert bits_and_threshold(rate) == (bits, dropped)
    assert abs(dropped / 2**bits - rate) <= 2**-17


@pytest.mark.parametrize("scalar", [np.float32, np.float64, jnp.float32])
@pytest.mark.usefixtures("unchecked_types")
def test_a_rate_may_be_a_scalar_of_numpy_or_jax(scalar):
    assert rates_per_level(scalar(0.25), 2) == (0.25, 0.25)
    assert bits_and_threshold(scalar(0.25)) == (2, 1)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
@pytest.mark.parametrize("train", [True, False])
def test_a_rate_that_is_no_share_is_refused(rate, train):
    with pytest.raises(ValueError, match=rf"dropout rate {rate} is outside \[0, 1\)"):
        Dropout(rate).apply({}, jnp.ones((2, 4)), train=train)


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1])
def test_dropout_bits_are_fair_and_independent_of_their_neighbours(rate):
    kept = np.asarray(dropped(Dropout(rate), jnp.ones((4, 96, 40, 8))) > 0, np.float64)
    for axis in range(4):
        for lag in range(1, min(kept.shape[axis], 40)):
            ahead, behind = (np.take(kept, range(*ends), axis) for ends in _lagged(kept, axis, lag))
            correlation = np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]
            assert abs(correlation) < 5 / ahead.size**0.5, (axis, lag)
    # Each of a word's draws by itself, also the last.
    shares = kept.mean((0, 2, 3))
    np.testing.assert_allclose(shares, 1 - rate, atol=5 * (rate * (1 - rate) / 1280) ** 0.5)


def _lagged(array, axis, lag):
    size = array.shape[axis]
    return (lag, size), (0, size - lag)


def test_dropout_of_a_length_that_no_word_divides_and_of_vectors():
    out = dropped(Dropout(0.5), jnp.ones((3, 37, 5)))
    assert out.shape == (3, 37, 5)
    assert 0.3 < float((out > 0).mean()) < 0.7
    assert set(np.unique(dropped(Dropout(0.5), jnp.ones((64,))))) == {0.0, 2.0}


def training_value_and_gradients(model, variables, x):
    """Of the sum of the squared logits, with the logits and the collections after it."""

    def loss(params):
        logits, updated = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return jnp.square(logits).sum(), (logits, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize(
    ("norm", "count"),
    [
        ("group", 2),
        ("batch", 1),
        *(
            pytest.param(norm, count, marks=pytest.mark.slow)
            for norm, count in (("none", 1), ("none", 2), ("group", 1), ("batch", 2))
        ),
    ],
)
def test_films_computed_a_few_at_once_are_the_films_of_the_whole_batch(norm, count):
    x = images(5, 8, 16, 1)
    options = {"widths": (4, 8), "norm": norm, "dropout": 0.25, "decoder_dropout": 0.5}
    whole, pieces = UNet(**options, films_at_once=5), UNet(**options, films_at_once=count)
    variables = initialised(whole)
    jax.tree.map(np.testing.assert_array_equal, pieces.init(jax.random.key(0), x), variables)
    theirs = training_value_and_gradients(whole, variables, x)
    ours = training_value_and_gradients(pieces, variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
    few, all_at_once = (applied(model, variables, x) for model in (pieces, whole))
    np.testing.assert_allclose(few, all_at_once, rtol=1e-5, atol=1e-6)


def test_films_computed_a_few_at_once_drop_the_same_by_a_key_for_everything():
    x = images(2, 4, 8, 1)
    whole = UNet(widths=(2, 4), dropout=0.25, decoder_dropout=0.5, films_at_once=2)
    variables = initialised(whole)
    # Flax takes it for that of `params`, and then for all that have no key of their own.
    together, few = (
        applied(model, variables, x, train=True, rngs=jax.random.key(1))
        for model in (whole, whole.clone(films_at_once=1))
    )
    np.testing.assert_allclose(few, together, rtol=1e-5, atol=1e-6)


def test_a_lone_cpu_computes_as_many_films_at_once_as_fit_its_cache(monkeypatch):
    monkeypatch.setattr(unet, "CACHED_BYTES", 3 * 8 * 8 * 4 * 4)
    model, x = UNet(widths=(4, 8)), images(7, 8, 8, 1)
    variables = initialised(model)

    def pieces(**options):
        program = jax.make_jaxpr(lambda x: model.clone(**options).apply(variables, x))(x)
        shapes = [[v.aval.shape for v in equation.invars] for equation in program.eqns]
        return [of[0][0] for of in shapes if of[1:] == [(1, 1, 4, 1)]]  # The head's kernel.

    assert pieces() == [7]
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert pieces() == [3, 3, 1]
    assert pieces(layout="plain") == [7]
    assert pieces(films_at_once=4, layout="plain") == [4, 3]
    monkeypatch.setattr(unet, "CACHED_BYTES", 1)
    monkeypatch.setattr(unet, "MOST_PIECES", 2)
    assert pieces() == [4, 3]


@pytest.mark.parametrize("remat", [pytest.param((0,), marks=pytest.mark.slow), (0, 1)])
def test_remat_changes_neither_values_nor_gradients_nor_parameters(remat):
    x = images(2, 8, 16, 1)
    options = {"widths": (4, 8), "norm": "batch", "dropout": 0.25, "decoder_dropout": 0.5}
    plain, again = UNet(**options), UNet(**options, remat=remat)
    variables = initialised(plain)
    shapes = [jax.eval_shape(m.init, jax.random.key(0), x) for m in (plain, again)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])

    def value_and_gradients(model):
        return lambda params: training_value_and_gradients(
            model, {**variables, "params": params}, x
        )

    theirs, ours = (jax.jit(value_and_gradients(m))(variables["params"]) for m in (plain, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    # The work is done again: at least each level's two convolutions on the way down.
    without, with_remat = (
        str(jax.make_jaxpr(value_and_gradients(m))(variables["params"])).count("conv_general")
        for m in (plain, again)
    )
    assert with_remat >= without + 2 * len(remat)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (UNet(remat=(5,)), (1, 16, 16, 1), "remat names level 5; levels are 0 to 4"),
        (UNet(norm="layer"), (1, 16, 16, 1), "norm is 'layer'"),
        (UNet(dropout=(0.1, 0.2)), (1, 16, 16, 1), "dropout has 2 rates, the network has 4 pools"),
        (UNet(dropout=1.0), (1, 16, 16, 1), r"dropout rate 1.0 is outside \[0, 1\)"),
        (UNet(films_at_once=0), (1, 16, 16, 1), "films_at_once is 0; it must be at least 1"),
        (UNet(), (16, 16, 1), r"images has shape \(16, 16, 1\)"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_does_not_fit_is_named(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.usefixtures("unchecked_types")
def test_integer_images_other_than_uint8_are_refused():
    with pytest.raises(ValueError, match="images has dtype int32"):
        UNet(widths=SMALL).init(jax.random.key(0), jnp.zeros((1, 16, 16, 1), jnp.int32))
