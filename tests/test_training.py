"""Train and evaluation steps against closed forms, and in every compiled form."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxseg import UNet, evaluate, losses, metrics, parallel, training
from jaxseg.models.layers import Norm
from jaxseg.training import TrainState, cpu_microbatches, make_eval_step, make_train_step


class Convolutions(nn.Module):
    """The layers of the U-Net that could depend on devices, few enough to compile fast."""

    norm: str = "batch"
    rate: float = 0.3
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False)(images)
        x = Norm(self.norm, 2, self.axis_name, jnp.float32, jnp.float32)(x, train)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
        return nn.Conv(1, (3, 3))(x)


MODEL = Convolutions()
SGD, STILL, ADAM = optax.sgd(0.5), optax.sgd(0.0), optax.adam(1e-3)


class Affine(nn.Module):
    """logit = weight * pixel + offset, so that a step has a closed form."""

    @nn.compact
    def __call__(self, images, *, train=False):
        del train
        weight = self.param("weight", nn.initializers.ones_init(), ())
        offset = self.param("offset", nn.initializers.zeros_init(), ())
        return weight * images + offset


def batch_of(rows, *, seed=0, size=16):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.random((rows, size, size, 1), dtype=np.float32),
        "labels": rng.integers(0, 2, (rows, size, size)).astype(np.int32),
    }


def cross_entropy_by_hand(logits, labels):
    """Of each pixel, in float64, from logits of one channel."""
    p = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
    return -np.where(labels == 1, np.log(p), np.log(1 - p))


def mesh_of(devices):
    return parallel.make_mesh(jax.devices()[:devices])


@cache
def _created(model, tx, shape, ema):
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    return TrainState.create(model, tx, jax.random.key(0), images, ema=ema)


def created(model, tx, shape=(16, 16, 1), *, ema=False):
    """The state before the first step, compiled once; a copy, because a step deletes its state."""
    return jax.tree.map(jnp.copy, _created(model, tx, shape, ema))


def fresh(model, tx, batch, *, mesh, ema=False):
    return parallel.replicate(created(model, tx, batch["images"].shape[1:], ema=ema), mesh)


def _compiled(model, tx, loss, devices=1, **options):
    step = make_train_step(model, tx, loss, **options)
    return parallel.jit_step(step, mesh_of(devices))


compiled: Any = cache(_compiled)
"""(Type checkers cannot know that Linen modules have a hash.)"""


def run(model, tx, loss, batches, *, devices=1, **options):
    """Returns the state after the batches, and the metrics of each."""
    mesh, measured = mesh_of(devices), []
    state = fresh(model, tx, batches[0], mesh=mesh, ema="ema_decay" in options)
    for batch in batches:
        step = compiled(model, tx, loss, devices, **options)
        state, of_step = step(state, parallel.shard_batch(batch, mesh))
        measured.append(of_step)
    return state, measured


def one_step(model, tx, loss, batch, **options):
    state, (measured,) = run(model, tx, loss, [batch], **options)
    return state, measured


def assert_same(one, other, *, atol):
    """Asserts that two states are equal: keys bit for bit, floats to a tolerance."""
    one, other = (state.replace(key=jax.random.key_data(state.key)) for state in (one, other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol),
        one,
        other,
    )


def test_a_step_of_gradient_descent_equals_the_one_done_by_hand():
    batch = batch_of(2)
    state, measured = one_step(Affine(), SGD, losses.cross_entropy, batch)
    x, t = batch["images"][..., 0].astype(np.float64), batch["labels"]
    errors = 1 / (1 + np.exp(-x)) - t
    weight, offset = (errors * x).mean(), errors.mean()
    np.testing.assert_allclose(state.params["weight"], 1 - 0.5 * weight, rtol=1e-5)
    np.testing.assert_allclose(state.params["offset"], -0.5 * offset, rtol=1e-5)
    np.testing.assert_allclose(
        measured["loss"], cross_entropy_by_hand(batch["images"], t).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(measured["gradient_norm"], np.hypot(weight, offset), rtol=1e-5)
    assert int(measured["images"]) == 2
    assert int(state.step) == 1


def test_where_leaves_pixels_out_of_the_step_as_cropping_does():
    batch = batch_of(2)
    where = np.zeros((2, 16, 16), bool)
    where[:, 3:11, 5:12] = True
    cropped = {name: array[:, 3:11, 5:12] for name, array in batch.items()}
    expected, _ = one_step(Affine(), SGD, losses.cross_entropy, cropped)
    state, _ = one_step(Affine(), SGD, losses.cross_entropy, {**batch, "where": where})
    assert_same(state, expected, atol=1e-6)


def finer_batch():
    batch = batch_of(8)
    return {**batch, "labels": np.random.default_rng(9).integers(0, 2, (8, 32, 32), np.int32)}


def test_logits_are_resized_to_finer_labels_as_torch_resizes_them():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    batch = finer_batch()
    weight = torch.tensor(1.0, requires_grad=True)
    offset = torch.tensor(0.0, requires_grad=True)
    logits = weight * torch.tensor(batch["images"]).permute(0, 3, 1, 2) + offset
    resized = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear")[:, 0]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        resized, torch.tensor(batch["labels"], dtype=torch.float32)
    )
    loss.backward()
    before = fresh(Affine(), SGD, batch, mesh=mesh_of(1))
    evaluated = jax.jit(make_eval_step(Affine(), losses.cross_entropy))(before, batch)
    state, measured = one_step(Affine(), SGD, losses.cross_entropy, batch)
    np.testing.assert_allclose(measured["loss"], loss.item(), rtol=1e-5)
    np.testing.assert_allclose(state.params["weight"], 1 - 0.5 * weight.grad.item(), rtol=1e-5)
    np.testing.assert_allclose(state.params["offset"], -0.5 * offset.grad.item(), atol=1e-6)

    np.testing.assert_allclose(evaluated.loss.mean(), loss.item(), rtol=1e-5)
    hits = (resized.detach().numpy() > 0) & (batch["labels"] == 1)
    np.testing.assert_array_equal(evaluated.counts.tp[:, 0], hits.sum((1, 2)))


def test_labels_may_be_probabilities_and_finer():
    # Images of one gray value per channel have logits of one value per channel at any size.
    rng = np.random.default_rng(0)
    gray = rng.random((2, 1, 1, 3), dtype=np.float32)
    batch = {
        "images": np.broadcast_to(gray, (2, 8, 8, 3)),
        "labels": rng.dirichlet(np.ones(3), (2, 16, 16)).astype(np.float32),
    }
    _, measured = one_step(Affine(), SGD, losses.cross_entropy, batch)
    probabilities = np.exp(gray) / np.exp(gray).sum(-1, keepdims=True)
    expected = -(batch["labels"] * np.log(probabilities)).sum(-1).mean()
    np.testing.assert_allclose(measured["loss"], expected, rtol=1e-5)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("labels", [(2, 16, 8), (2, 4, 8)])
def test_coarser_labels_and_labels_of_other_proportions_are_refused(labels):
    batch = {"images": np.zeros((2, 8, 16, 1), np.float32), "labels": np.zeros(labels, np.int32)}
    state = fresh(Affine(), SGD, batch, mesh=mesh_of(1))
    for step in (
        make_train_step(Affine(), SGD, losses.cross_entropy),
        make_eval_step(Affine(), losses.cross_entropy),
    ):
        with pytest.raises(ValueError, match="labels"):
            jax.eval_shape(step, state, batch)


class TwoLevels(nn.Module):
    """Logits of two sizes in training, as of a network with deep supervision."""

    @nn.compact
    def __call__(self, images, *, train=False):
        logits = Affine(name="affine")(images)
        return (logits, 2 * logits[:, ::2, ::2]) if train else logits


def test_deep_supervision_trains_and_evaluates_with_one_loss():
    batch, loss = batch_of(2), losses.deep_supervision(losses.cross_entropy)
    # The first logits are the images. A pixel of half the size has the label below its center.
    fine = cross_entropy_by_hand(batch["images"], batch["labels"]).mean((1, 2))
    coarse = cross_entropy_by_hand(2 * batch["images"][:, ::2, ::2], batch["labels"][:, 1::2, 1::2])
    _, measured = one_step(TwoLevels(), SGD, loss, batch)
    np.testing.assert_allclose(measured["loss"], (fine + coarse.mean((1, 2)) / 2).mean(), rtol=1e-5)
    before = fresh(TwoLevels(), SGD, batch, mesh=mesh_of(1))
    evaluated = jax.jit(make_eval_step(TwoLevels(), loss))(before, batch)
    np.testing.assert_allclose(evaluated.loss, fine, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        UNet(widths=(4, 8, 12), norm="batch", dropout=0.3, decoder_dropout=0.3),
    ],
    ids=["convolutions", "U-Net"],
)
def test_eight_devices_give_the_state_of_one_device(model):
    batches = [{**finer_batch(), **batch_of(8, seed=seed)} for seed in range(3)]
    loss = losses.combine({losses.cross_entropy: 1.0, losses.soft_dice: 1.0})
    one, eight = (run(model, ADAM, loss, batches, devices=devices)[0] for devices in (1, 8))
    assert_same(eight, one, atol=2e-6)


@pytest.mark.slow
def test_a_pooled_loss_on_many_devices_is_pooled_over_all_of_them():
    pooled = partial(losses.soft_dice, pooled=True)
    batch = {**batch_of(8), "where": np.random.default_rng(1).random((8, 16, 16)) < 0.5}
    (one, measured), (four, measured_too) = (
        one_step(Affine(), SGD, pooled, batch, devices=devices) for devices in (1, 4)
    )
    assert_same(four, one, atol=1e-6)
    expected = jax.jit(pooled)(batch["images"], batch["labels"], where=batch["where"])
    for found in (measured, measured_too):
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


def in_four_parts(batch):
    return {name: array.reshape(4, -1, *array.shape[1:]) for name, array in batch.items()}


def test_pmap_gives_the_state_of_one_device():
    model, batch = Convolutions("batch", rate=0.0), batch_of(8)
    one, measured = one_step(model, ADAM, losses.soft_dice, batch)
    step = make_train_step(model, ADAM, losses.soft_dice, axis_name="data")
    pmapped = parallel.pmap_step(step, devices=jax.devices()[:4])
    other, measured_too = pmapped(created(model, ADAM), in_four_parts(batch))
    assert_same(other, one, atol=2e-6)
    for name in ("loss", "gradient_norm", "images"):
        np.testing.assert_allclose(measured_too[name], measured[name], rtol=1e-5)


@pytest.mark.slow
def test_under_pmap_each_device_samples_its_own_dropout_and_augmentation():
    def noise(key, batch):
        return {**batch, "images": jax.random.normal(key, batch["images"].shape)}

    def loss(logits, labels, *, where=None):
        del labels, where
        return logits.sum((1, 2, 3))

    batch = {"images": np.ones((4, 4, 4, 1), np.float32), "labels": np.zeros((4, 4, 4), np.int32)}
    state = created(Affine(), SGD, (4, 4, 1))
    step = make_train_step(Affine(), SGD, loss, augment=noise, axis_name="data")
    mapped = parallel.pmap_step(step, devices=jax.devices()[:4])
    key = jax.random.fold_in(state.key, 0)
    _, measured = mapped(state, in_four_parts(batch))
    # Four equal samples would have a sum four times that of one of them.
    sums = [
        float(jax.random.normal(jax.random.split(jax.random.fold_in(key, i))[0], (4, 4)).sum())
        for i in range(4)
    ]
    assert len(set(sums)) == 4
    np.testing.assert_allclose(measured["loss"], np.mean(sums), rtol=1e-4)


def test_steps_for_pmap_and_for_jit_are_not_mixed_up():
    batch = batch_of(8)
    plain = make_train_step(Affine(), ADAM, losses.cross_entropy)
    with pytest.raises(ValueError, match='made with axis_name="data"'):
        parallel.pmap_step(plain)
    mapped = make_train_step(Affine(), ADAM, losses.cross_entropy, axis_name="data")
    with pytest.raises(ValueError, match="made without axis_name"):
        parallel.jit_step(mapped, mesh_of(1))
    pooled = partial(losses.soft_dice, pooled=True)
    step = parallel.pmap_step(
        make_train_step(Affine(), ADAM, pooled, axis_name="data"), devices=jax.devices()[:4]
    )
    state = created(Affine(), ADAM)
    with pytest.raises(ValueError, match="pooled over the batch needs jit"):
        step(state, in_four_parts(batch))


@pytest.mark.slow
def test_microbatches_on_two_devices_give_the_state_of_the_whole_batch():
    model, batch = Convolutions("group", rate=0.0), batch_of(4)
    batch["where"] = np.random.default_rng(1).random((4, 16, 16)) < 0.5
    whole, parts = (
        one_step(model, ADAM, losses.soft_dice, batch, devices=2, microbatches=microbatches)
        for microbatches in (1, 2)
    )
    assert_same(parts[0], whole[0], atol=2e-6)
    for name in ("loss", "gradient_norm", "images"):
        np.testing.assert_allclose(parts[1][name], whole[1][name], rtol=1e-5)


@pytest.mark.slow
def test_on_an_accelerator_microbatches_are_a_loop():
    model, batch = Convolutions("group"), batch_of(4)
    step = make_train_step(model, SGD, losses.cross_entropy, microbatches=4)
    state = created(model, SGD)
    convolutions = {
        platform: jax.jit(step)
        .trace(state, batch)
        .lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.convolution")
        for platform in ("cpu", "cuda")
    }
    assert convolutions["cpu"] == 4 * convolutions["cuda"] > 0


def test_microbatches_sample_different_dropout_masks():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            weight = self.param("weight", nn.initializers.ones_init(), images.shape[1:])
            return nn.Dropout(0.5, deterministic=not train)(images * weight[None])

    def loss(logits, labels, *, where=None):
        del labels, where
        return logits.sum((1, 2, 3))

    batch = {"images": np.ones((2, 8, 8, 1), np.float32), "labels": np.zeros((2, 8, 8), np.int32)}
    state, _ = one_step(Dropping(), optax.sgd(1.0), loss, batch, microbatches=2)
    # The mean gradient is 2 if both parts keep a pixel, 1 if one does, 0 if neither does.
    gradients = 1 - np.asarray(state.params["weight"])
    assert set(np.unique(gradients)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((16, 256, 256), 8),
        ((16, 128, 128), 2),
        ((16, 64, 64), 1),
        ((12, 256, 256), 6),
        ((64, 512, 512), 8),
        ((7, 256, 256), 7),
        ((11, 256, 256), 1),
    ],
)
def test_a_single_cpu_takes_as_few_parts_as_fit_its_cache(shape, parts, monkeypatch):
    assert cpu_microbatches(*shape) == 1
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert cpu_microbatches(*shape) == parts
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert cpu_microbatches(*shape) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "loss", "parts"),
    [
        ("group", losses.soft_dice, 2),
        ("batch", losses.soft_dice, 1),
        ("group", partial(losses.soft_dice, pooled=True), 1),
    ],
)
def test_microbatches_are_automatic_unless_the_result_would_differ(norm, loss, parts, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(training, "CACHED_PIXELS", 2 * 16 * 16)
    model, batch = Convolutions(norm), batch_of(4)
    state = created(model, SGD)
    program = str(jax.make_jaxpr(make_train_step(model, SGD, loss))(state, batch))
    assert ("platform_index" in program) == (parts == 2)
    evaluated = str(jax.make_jaxpr(make_eval_step(model, losses.soft_dice))(state, batch))
    assert evaluated.count("conv_general_dilated[") == 2 * 2


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1), (8,)])
def test_a_loss_that_is_not_one_value_per_image_is_refused(shape):
    def loss(logits, labels, *, where=None):
        del labels, where
        return jnp.zeros(shape) + logits.sum()

    with pytest.raises(ValueError, match=r"must have one value per image, \(4,\)"):
        one_step(Affine(), optax.sgd(0.5), loss, batch_of(4))


def test_batches_that_do_not_fit_are_refused_with_the_nearest_sizes():
    tx, cross_entropy = SGD, losses.cross_entropy
    with pytest.raises(ValueError, match=r"microbatches=4 .* 6 images; .* fit are 4 and 8"):
        one_step(Affine(), tx, cross_entropy, batch_of(6), microbatches=4)
    with pytest.raises(ValueError, match=r"8 devices .* 3 images; .* fit are 8"):
        one_step(Affine(), tx, cross_entropy, batch_of(3), devices=8)
    with pytest.raises(ValueError, match="needs microbatches=1"):
        one_step(Affine(), tx, partial(losses.soft_dice, pooled=True), batch_of(4), microbatches=2)
    with pytest.raises(ValueError, match="drop the last partial batch"):
        one_step(Affine(), tx, cross_entropy, {**batch_of(2), "valid": np.ones(2, bool)})


def test_an_update_that_is_not_finite_changes_only_the_step_number():
    good, mesh = batch_of(4), mesh_of(2)
    step = compiled(MODEL, ADAM, losses.cross_entropy, 2, ema_decay=0.5)
    state = fresh(MODEL, ADAM, good, mesh=mesh, ema=True)
    kept = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
    for number, value in enumerate((np.nan, np.inf), start=1):
        bad = {**good, "images": good["images"].copy()}
        bad["images"][2, 3, 5] = value
        state, measured = step(state, parallel.shard_batch(bad, mesh))
        assert int(measured["skipped"]) == 1
        assert_same(state, kept.replace(key=state.key, step=np.int32(number)), atol=0)
    state, measured = step(state, parallel.shard_batch(good, mesh))
    assert int(measured["skipped"]) == 0
    assert np.isfinite(measured["loss"])
    assert int(state.opt_state[0].count) == 1


def test_computing_in_bfloat16_keeps_params_and_sums_in_float32():
    batch, model = batch_of(4), UNet(widths=(2, 4), norm="batch", dtype=jnp.bfloat16)
    step = make_train_step(model, ADAM, losses.soft_dice, ema_decay=0.5)

    def created_and_trained() -> Any:
        images = jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32)
        return step(TrainState.create(model, ADAM, jax.random.key(0), images, ema=True), batch)

    state, measured = jax.eval_shape(created_and_trained)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema, state.collections))}
    assert kinds == {np.dtype(np.float32)}
    moments = state.opt_state[0]
    assert {leaf.dtype for leaf in jax.tree.leaves((moments.mu, moments.nu))} == kinds
    assert measured["loss"].dtype == np.float32


@pytest.mark.slow
def test_a_step_in_bfloat16_has_a_finite_loss():
    model = UNet(widths=(2, 4), norm="batch", dtype=jnp.bfloat16)
    _, measured = one_step(model, ADAM, losses.soft_dice, batch_of(4))
    assert np.isfinite(measured["loss"])


@pytest.mark.slow
def test_augmentation_is_applied_before_the_loss_with_a_new_key_at_every_step():
    def noise(key, batch):
        return {**batch, "images": jax.random.normal(key, batch["images"].shape)}

    batch = batch_of(2)
    _, measured = run(Affine(), STILL, losses.cross_entropy, [batch] * 2, augment=noise)
    found = [of_step["loss"] for of_step in measured]
    key = created(Affine(), STILL).key
    expected = []
    for number in range(2):
        augmented = noise(jax.random.split(jax.random.fold_in(key, number))[0], batch)
        images = np.asarray(augmented["images"])
        expected.append(cross_entropy_by_hand(images, batch["labels"]).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found[0] - found[1]) > 1e-4


def test_the_state_is_donated_and_using_it_again_is_refused():
    batch, mesh = batch_of(2), mesh_of(1)
    step = compiled(Affine(), SGD, losses.cross_entropy)
    state, batch = fresh(Affine(), SGD, batch, mesh=mesh), parallel.shard_batch(batch, mesh)
    step(state, batch)
    assert state.params["weight"].is_deleted()
    with pytest.raises(ValueError, match="donated to an earlier step"):
        step(state, batch)


def test_equal_seeds_give_equal_bits_and_dropout_changes_with_the_step():
    seen = []
    for _ in range(2):
        _, measured = run(MODEL, STILL, losses.cross_entropy, [batch_of(4)] * 2)
        seen.append([float(of_step["loss"]) for of_step in measured])
    assert seen[0] == seen[1]
    # The learning rate is 0, so only another dropout mask can change the loss.
    assert seen[0][0] != seen[0][1]


def test_the_moving_average_follows_its_recurrence():
    batch, mesh = batch_of(2), mesh_of(1)
    step = compiled(Affine(), SGD, losses.cross_entropy, ema_decay=0.15)
    state = fresh(Affine(), SGD, batch, mesh=mesh, ema=True)
    expected = 1.0
    for decay in (1 / 10, 0.15, 0.15):
        state, _ = step(state, parallel.shard_batch(batch, mesh))
        expected = decay * expected + (1 - decay) * float(state.params["weight"])
        np.testing.assert_allclose(state.ema["weight"], expected, rtol=1e-6)
    assert state.variables()["params"] is state.ema


def test_a_moving_average_needs_a_state_that_keeps_one():
    batch = batch_of(2)
    state = fresh(Affine(), SGD, batch, mesh=mesh_of(1))
    with pytest.raises(ValueError, match="ema=True"):
        compiled(Affine(), SGD, losses.cross_entropy, ema_decay=0.5)(state, batch)


def test_batch_statistics_are_carried_in_the_state():
    before = created(MODEL, STILL)
    after, _ = one_step(MODEL, STILL, losses.cross_entropy, batch_of(4))
    means = [
        state.collections["batch_stats"]["Norm_0"]["BatchNorm_0"]["mean"]
        for state in (before, after)
    ]
    assert float(np.abs(np.asarray(means[1]) - np.asarray(means[0])).max()) > 1e-4


def at(weight, offset, images):
    state = created(Affine(), SGD, images.shape[1:])
    return state.replace(params={"weight": jnp.float32(weight), "offset": jnp.float32(offset)})


EVALUATE = jax.jit(make_eval_step(Affine(), losses.cross_entropy))


def test_an_evaluation_step_counts_the_pixels_that_numpy_counts():
    batch = batch_of(7)
    result = EVALUATE(at(4.0, -2.0, batch["images"]), batch)
    logits = 4 * batch["images"].astype(np.float64) - 2
    predicted, actual = logits[..., 0] > 0, batch["labels"] == 1
    np.testing.assert_array_equal(result.counts.tp[:, 0], (predicted & actual).sum((1, 2)))
    np.testing.assert_array_equal(result.counts.fn[:, 0], (~predicted & actual).sum((1, 2)))
    loss = cross_entropy_by_hand(logits, batch["labels"]).mean((1, 2))
    np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
    overlap = (actual / (1 + np.exp(-logits[..., 0]))).sum((1, 2))
    np.testing.assert_allclose(result.soft_dice.overlap[:, 0], overlap, rtol=1e-5)


def test_evaluate_leaves_padding_rows_out_and_pools_all_batches():
    mesh, whole = mesh_of(4), batch_of(7)
    state = at(4.0, -2.0, whole["images"])
    eval_step = parallel.jit_batched(make_eval_step(Affine(), losses.cross_entropy), mesh)
    slices = (slice(0, 4), slice(4, 7))
    batches = [
        parallel.shard_batch({n: a[rows] for n, a in whole.items()}, mesh, pad_to=4)
        for rows in slices
    ]
    result = evaluate(eval_step, parallel.replicate(state, mesh), batches)
    expected = EVALUATE(state, whole)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), result.images, expected)
    np.testing.assert_allclose(result.loss, np.mean(expected.loss), rtol=1e-6)
    np.testing.assert_array_equal(result.counts.tp, np.asarray(expected.counts.tp).sum(0))
    assert metrics.dice(result.counts).shape == (1,)
    with pytest.raises(ValueError, match="got no batch"):
        evaluate(eval_step, state, [])


def test_evaluation_weights_the_loss_by_where_and_counts_every_pixel_of_positive_weight():
    batch = batch_of(2)
    weights = np.random.default_rng(1).integers(0, 3, (2, 16, 16)).astype(np.float32)
    result = EVALUATE(at(4, -2, batch["images"]), {**batch, "where": weights})
    logits, labels = 4 * batch["images"] - 2, batch["labels"]
    hits = (logits[..., 0] > 0) & (labels == 1) & (weights > 0)
    np.testing.assert_array_equal(result.counts.tp[:, 0], hits.sum((1, 2)))
    each = cross_entropy_by_hand(logits, labels)
    expected = np.average(each.reshape(2, -1), axis=1, weights=weights.reshape(2, -1))
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)


def test_multilabel_evaluation_counts_each_channel_as_a_binary_problem():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (2, 8, 8, 3)).astype(np.int32)
    loss = partial(losses.cross_entropy, multilabel=True)
    eval_step = jax.jit(make_eval_step(Affine(), loss, multilabel=True))
    result = eval_step(at(1.0, 0.0, images), {"images": images, "labels": labels})
    np.testing.assert_array_equal(result.counts.tp, ((images > 0) & (labels == 1)).sum((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jit", "pmap"])
def test_calls_on_several_cpu_devices_do_not_queue(form):
    # More than 32 queued calls can block forever; see `parallel._Checked`.
    def slow_loss(logits, labels, *, where=None):
        slowed = jax.lax.fori_loop(0, 1000, lambda _, x: jnp.sin(x), logits)
        return losses.cross_entropy(slowed, labels, where=where)

    batch, mesh = batch_of(8, size=32), mesh_of(8)
    axis_name = "data" if form == "pmap" else None
    step = make_train_step(Affine(), SGD, slow_loss, axis_name=axis_name)
    state = fresh(Affine(), SGD, batch, mesh=mesh)
    if form == "jit":
        step, batch = parallel.jit_step(step, mesh), parallel.shard_batch(batch, mesh)
    else:
        batch = jax.tree.map(lambda rows: rows.reshape(8, 1, *rows.shape[1:]), batch)
        step = parallel.pmap_step(step)
    for _ in range(2):
        state, measured = step(state, batch)
        assert all(array.is_ready() for array in jax.tree.leaves((state.params, measured)))
