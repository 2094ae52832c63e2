"""Train and evaluation steps against closed forms, and in every form that runs on devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxseg import UNet, losses, parallel, training
from jaxseg.models import Dropout
from jaxseg.models.layers import Normalization
from jaxseg.training import TrainState, make_eval_step, make_many_steps, make_train_step


class Convolutions(nn.Module):
    """The layers of the U-Net that could depend on devices, few enough to compile fast."""

    norm: str = "batch"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train, valid=None, rows=None):
        x = nn.Conv(4, (3, 3), use_bias=False)(images)
        x = Normalization(self.norm, axis_name=self.axis_name)(x, train=train, valid=valid)
        x = Dropout(0.3)(nn.relu(x), train=train, rows=rows)
        return nn.Conv(1, (3, 3))(x)


MODEL = Convolutions()


class Affine(nn.Module):
    """logit = weight * pixel + offset, so that a step has a closed form."""

    @nn.compact
    def __call__(self, images, *, train):
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


def mesh_of(devices):
    return parallel.make_mesh(jax.devices()[:devices])


def fresh(model, tx, batch, *, mesh, ema=False):
    state = TrainState.create(model, tx, jax.random.key(0), batch["images"], ema=ema)
    return parallel.replicate(state, mesh)


def run(step, state, batches, mesh):
    compiled, measured = parallel.jit_step(step, mesh), {}
    for batch in batches:
        state, measured = compiled(state, parallel.shard_batch(batch, mesh))
    return state, measured


def assert_same(one, other, *, atol):
    """Equal states; keys to the bit, floats to a tolerance."""
    one, other = (state.replace(key=jax.random.key_data(state.key)) for state in (one, other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol),
        one,
        other,
    )


def test_a_step_of_gradient_descent_is_the_one_done_by_hand():
    batch = batch_of(3)
    mesh = mesh_of(1)
    state, measured = run(
        make_train_step(Affine(), optax.sgd(0.5), losses.cross_entropy),
        fresh(Affine(), optax.sgd(0.5), batch, mesh=mesh),
        [batch],
        mesh,
    )
    x, t = batch["images"][..., 0].astype(np.float64), batch["labels"]
    p = 1 / (1 + np.exp(-x))
    slope, offset = ((p - t) * x).mean(), (p - t).mean()
    np.testing.assert_allclose(state.params["weight"], 1 - 0.5 * slope, rtol=1e-5)
    np.testing.assert_allclose(state.params["offset"], -0.5 * offset, rtol=1e-5)
    np.testing.assert_allclose(
        measured["loss"], -np.where(t == 1, np.log(p), np.log(1 - p)).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(measured["gradient_norm"], np.hypot(slope, offset), rtol=1e-5)
    assert int(measured["images"]) == 3
    assert int(state.step) == 1


def test_where_leaves_pixels_out_of_the_step_as_cropping_does():
    batch = batch_of(2)
    where = np.zeros((2, 16, 16), bool)
    where[:, 3:11, 5:12] = True
    cropped = {"images": batch["images"][:, 3:11, 5:12], "labels": batch["labels"][:, 3:11, 5:12]}
    mesh = mesh_of(1)
    step = make_train_step(Affine(), optax.sgd(0.5), losses.cross_entropy)
    one, _ = run(
        step, fresh(Affine(), optax.sgd(0.5), batch, mesh=mesh), [{**batch, "where": where}], mesh
    )
    other, _ = run(step, fresh(Affine(), optax.sgd(0.5), batch, mesh=mesh), [cropped], mesh)
    assert_same(one, other, atol=1e-6)


def finer_batch():
    batch = batch_of(8)
    return {**batch, "labels": np.random.default_rng(9).integers(0, 2, (8, 32, 32), np.int32)}


def test_finer_labels_are_met_by_logits_resized_as_torch_resizes_them():
    torch = pytest.importorskip("torch", reason="the peer")
    batch = finer_batch()
    weight = torch.tensor(1.0, requires_grad=True)
    offset = torch.tensor(0.0, requires_grad=True)
    logits = weight * torch.tensor(batch["images"]).permute(0, 3, 1, 2) + offset
    resized = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear")[:, 0]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        resized, torch.tensor(batch["labels"], dtype=torch.float32)
    )
    loss.backward()
    mesh, tx = mesh_of(1), optax.sgd(0.5)
    before = fresh(Affine(), tx, batch, mesh=mesh)
    evaluated = make_eval_step(Affine(), losses.cross_entropy)(before, batch)
    step = make_train_step(Affine(), tx, losses.cross_entropy)
    state, measured = run(step, before, [batch], mesh)
    np.testing.assert_allclose(measured["loss"], loss.item(), rtol=1e-5)
    np.testing.assert_allclose(state.params["weight"], 1 - 0.5 * weight.grad.item(), rtol=1e-5)
    np.testing.assert_allclose(state.params["offset"], -0.5 * offset.grad.item(), atol=1e-6)

    np.testing.assert_allclose(evaluated.loss.mean(), loss.item(), rtol=1e-5)
    hits = (resized.detach().numpy() > 0) & (batch["labels"] == 1)
    np.testing.assert_array_equal(evaluated.counts.tp[:, 0], hits.sum((1, 2)))


@pytest.mark.parametrize("finer", [1, 2])
def test_probabilities_are_learnt_as_labels(finer):
    # Films of one grey value in each channel: so have their logits at any size.
    rng = np.random.default_rng(0)
    side = 8 * finer
    grey = rng.random((2, 1, 1, 3), dtype=np.float32)
    batch = {
        "images": np.broadcast_to(grey, (2, 8, 8, 3)),
        "labels": rng.dirichlet(np.ones(3), (2, side, side)).astype(np.float32),
    }
    mesh, tx = mesh_of(1), optax.sgd(0.5)
    step = make_train_step(Affine(), tx, losses.cross_entropy)
    _, measured = run(step, fresh(Affine(), tx, batch, mesh=mesh), [batch], mesh)
    share = np.exp(grey) / np.exp(grey).sum(-1, keepdims=True)
    expected = -(batch["labels"] * np.log(share)).sum(-1).mean()
    np.testing.assert_allclose(measured["loss"], expected, rtol=1e-5)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("labels", [(2, 16, 8), (2, 4, 8), (2, 8, 32)])
def test_coarser_labels_and_labels_of_other_proportions_are_refused(labels):
    batch = {"images": np.zeros((2, 8, 16, 1), np.float32), "labels": np.zeros(labels, np.int32)}
    mesh, tx = mesh_of(1), optax.sgd(0.5)
    state = fresh(Affine(), tx, batch, mesh=mesh)
    for step in (
        make_train_step(Affine(), tx, losses.cross_entropy),
        make_eval_step(Affine(), losses.cross_entropy),
    ):
        with pytest.raises(ValueError, match="labels"):
            step(state, batch)


@pytest.mark.parametrize("spatial", [1, 2])
def test_finer_labels_are_learnt_on_many_devices_as_on_one(spatial):
    batch, tx = finer_batch(), optax.sgd(0.5)
    step = make_train_step(MODEL, tx, losses.soft_dice)
    one = run(step, fresh(MODEL, tx, batch, mesh=mesh_of(1)), [batch], mesh_of(1))
    mesh = parallel.make_mesh(jax.devices()[:4], spatial=spatial)
    many = run(step, fresh(MODEL, tx, batch, mesh=mesh), [batch], mesh)
    assert_same(one[0], many[0], atol=1e-6)
    np.testing.assert_allclose(one[1]["loss"], many[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "devices"),
    [
        pytest.param(MODEL, 2, marks=pytest.mark.slow),
        (MODEL, 8),
        pytest.param(
            UNet(widths=(4, 8, 12), norm="batch", dropout=0.3, decoder_dropout=0.3),
            8,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_more_devices_and_padding_rows_give_the_state_of_one_device(model, devices):
    # Six rows over eight devices: two rows are padding.
    batches = [batch_of(6, seed=seed) for seed in range(3)]
    tx = optax.adam(1e-3)
    step = make_train_step(
        model, tx, losses.combine({losses.cross_entropy: 1.0, losses.soft_dice: 1.0})
    )
    states = [
        run(step, fresh(model, tx, batches[0], mesh=mesh), batches, mesh)[0]
        for mesh in (mesh_of(1), mesh_of(devices))
    ]
    assert_same(*states, atol=2e-6)


def test_a_padded_row_changes_nothing_whatever_it_holds():
    batch, tx, mesh = batch_of(3), optax.adam(1e-3), mesh_of(1)
    step = make_train_step(MODEL, tx, losses.cross_entropy)
    padded = {
        "images": np.concatenate([batch["images"], np.ones((2, 16, 16, 1), np.float32)]),
        "labels": np.concatenate([batch["labels"], np.ones((2, 16, 16), np.int32)]),
        "valid": np.array([True, True, True, False, False]),
    }
    states, measured = zip(
        *(run(step, fresh(MODEL, tx, batch, mesh=mesh), [b], mesh) for b in (batch, padded)),
        strict=True,
    )
    assert_same(*states, atol=2e-6)
    assert [int(m["images"]) for m in measured] == [3, 3]


def mean_over_the_object(logits, labels, *, where=None):
    """Has no value on a film without an object."""
    del where
    inside = labels.astype(logits.dtype)[..., None]
    return (inside * logits).sum((1, 2, 3)) / inside.sum((1, 2, 3))


@pytest.mark.parametrize(
    "loss",
    [
        partial(losses.soft_dice, pooled=True),
        partial(losses.cross_entropy, pooled=True),
        mean_over_the_object,
    ],
)
@pytest.mark.parametrize("gaps", [False, True])
def test_padding_changes_no_pooled_loss_and_none_without_a_value_on_it(loss, gaps):
    batch, tx = batch_of(3), optax.sgd(0.1)
    if gaps:
        batch["where"] = np.random.default_rng(1).random((3, 16, 16)) < 0.5
    step = make_train_step(Affine(), tx, loss)
    results = []
    for devices in (1, 4):
        mesh = mesh_of(devices)
        results.append(run(step, fresh(Affine(), tx, batch, mesh=mesh), [batch], mesh))
    (one, measured), (four, measured_too) = results
    assert [int(found["skipped"]) for found in (measured, measured_too)] == [0, 0]
    assert_same(four, one, atol=1e-6)
    assert float(measured_too["loss"]) == pytest.approx(float(measured["loss"]), rel=1e-6)


@pytest.mark.parametrize("pooled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_under_pmap_with_an_axis_name_the_step_is_that_of_one_device(pooled):
    # Devices have two, two, one and no rows that count.
    batch = {**batch_of(8), "valid": np.arange(8) < 5}
    tx, mesh = optax.adam(1e-3), mesh_of(1)
    plain = partial(losses.soft_dice, pooled=True) if pooled else losses.soft_dice
    mapped = (
        partial(losses.soft_dice, pooled=True, axis_name="data") if pooled else losses.soft_dice
    )
    one, measured = run(
        make_train_step(MODEL, tx, plain), fresh(MODEL, tx, batch, mesh=mesh), [batch], mesh
    )
    state = TrainState.create(MODEL, tx, jax.random.key(0), batch["images"])
    step = make_train_step(MODEL, tx, mapped, axis_name="data")
    pmapped = parallel.pmap_step(step, devices=jax.devices()[:4])
    shared = {name: array.reshape(4, 2, *array.shape[1:]) for name, array in batch.items()}
    other, measured_too = pmapped(state, shared)
    assert_same(other, one, atol=2e-6)
    for name in ("loss", "gradient_norm", "images"):
        np.testing.assert_allclose(measured_too[name], measured[name], rtol=1e-5)


@pytest.mark.parametrize("unroll", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradients_summed_over_parts_are_those_of_the_whole_batch(unroll):
    # With rows that do not count in some parts, and dropout keyed by the row in the whole batch.
    batch = {**batch_of(8), "valid": np.arange(8) < 5}
    model = Convolutions(norm="group")
    tx, mesh = optax.adam(1e-3), mesh_of(2)
    states = [
        run(
            make_train_step(
                model, tx, losses.cross_entropy, microbatches=microbatches, unroll=unroll
            ),
            fresh(model, tx, batch, mesh=mesh),
            [batch],
            mesh,
        )[0]
        for microbatches in (1, 4)
    ]
    assert_same(*states, atol=2e-6)


def test_a_part_with_no_row_that_counts_leaves_batch_norm_as_the_others_do():
    batch = {**batch_of(2), "valid": np.array([True, False])}
    model, tx, mesh = Convolutions(norm="batch"), optax.sgd(0.1), mesh_of(1)
    step = make_train_step(model, tx, losses.cross_entropy, microbatches=2)
    in_parts, measured = run(step, fresh(model, tx, batch, mesh=mesh), [batch], mesh)
    first = {name: array[:1] for name, array in batch.items()}
    step = make_train_step(model, tx, losses.cross_entropy)
    alone, _ = run(step, fresh(model, tx, batch, mesh=mesh), [first], mesh)
    assert measured["skipped"] == 0
    assert_same(in_parts, alone, atol=2e-6)


def test_dropout_that_knows_no_rows_drops_other_pixels_in_each_part():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            weight = self.param("weight", nn.initializers.ones_init(), images.shape[1:])
            return nn.Dropout(0.5, deterministic=not train)(images * weight[None])

    def loss(logits, labels, *, where=None):
        del labels, where
        return logits.sum((1, 2, 3))

    batch = {"images": np.ones((2, 8, 8, 1), np.float32), "labels": np.zeros((2, 8, 8), np.int32)}
    tx, mesh = optax.sgd(1.0), mesh_of(1)
    before = fresh(Dropping(), tx, batch, mesh=mesh)
    step = make_train_step(Dropping(), tx, loss, microbatches=2)
    state, _ = run(step, before, [batch], mesh)
    # The mean slope is 2 where both parts keep a pixel, 1 where one does, 0 where neither.
    slopes = 1 - np.asarray(state.params["weight"])
    assert set(np.unique(slopes)) == {0, 1, 2}


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1), (8,)])
def test_a_loss_that_is_not_one_value_per_image_is_refused(shape):
    def loss(logits, labels, *, where=None):
        del labels, where
        return jnp.zeros(shape) + logits.sum()

    batch = {"images": np.zeros((4, 8, 8, 1), np.float32), "labels": np.zeros((4, 8, 8), np.int32)}
    mesh, tx = mesh_of(1), optax.sgd(0.5)
    state = fresh(Affine(), tx, batch, mesh=mesh)
    with pytest.raises(ValueError, match=r"should give one value per image, \(4,\)"):
        make_train_step(Affine(), tx, loss)(state, batch)


def test_what_cannot_be_cut_into_parts_is_refused():
    batch, tx, mesh = batch_of(3), optax.adam(1e-3), mesh_of(1)
    cut = partial(make_train_step, Affine(), tx, microbatches=2)
    state = fresh(Affine(), tx, batch, mesh=mesh)
    with pytest.raises(ValueError, match="3 rows cannot be cut into 2 equal parts"):
        run(cut(losses.cross_entropy), state, [batch], mesh)
    with pytest.raises(ValueError, match="pooled over the batch"):
        run(cut(partial(losses.soft_dice, pooled=True)), state, [batch_of(4)], mesh)


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_an_update_that_is_not_finite_changes_nothing_but_the_steps_number(value):
    good, tx, mesh = batch_of(4), optax.adam(1e-3), mesh_of(2)
    bad = {**good, "images": good["images"].copy()}
    bad["images"][2, 3, 5] = value
    compiled = parallel.jit_step(
        make_train_step(MODEL, tx, losses.cross_entropy, ema_decay=0.5), mesh
    )
    before = fresh(MODEL, tx, good, mesh=mesh, ema=True)
    kept = jax.device_get(before.replace(key=jax.random.key_data(before.key)))
    state, measured = compiled(before, parallel.shard_batch(bad, mesh))
    assert int(measured["skipped"]) == 1
    assert_same(state, kept.replace(key=state.key, step=np.int32(1)), atol=0)
    state, measured = compiled(state, parallel.shard_batch(good, mesh))
    assert int(measured["skipped"]) == 0
    assert np.isfinite(measured["loss"])
    assert int(state.opt_state[0].count) == 1


def test_computing_in_bfloat16_keeps_params_and_sums_in_float32():
    batch, tx, mesh = batch_of(4), optax.adam(1e-3), mesh_of(1)
    model = UNet(widths=(2, 4), norm="batch", dtype=jnp.bfloat16)
    step = make_train_step(model, tx, losses.soft_dice, ema_decay=0.5)
    state = fresh(model, tx, batch, mesh=mesh, ema=True)
    state, measured = jax.eval_shape(step, state, parallel.shard_batch(batch, mesh))
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema, state.collections))}
    assert kinds == {np.dtype(np.float32)}
    moments = state.opt_state[0]
    assert {leaf.dtype for leaf in jax.tree.leaves((moments.mu, moments.nu))} == kinds
    assert measured["loss"].dtype == np.float32


@pytest.mark.slow
def test_a_step_in_bfloat16_has_a_finite_loss():
    batch, tx, mesh = batch_of(4), optax.adam(1e-3), mesh_of(1)
    model = UNet(widths=(2, 4), norm="batch", dtype=jnp.bfloat16)
    step = make_train_step(model, tx, losses.soft_dice, ema_decay=0.5)
    _, measured = run(step, fresh(model, tx, batch, mesh=mesh, ema=True), [batch], mesh)
    assert np.isfinite(measured["loss"])


def shifted_rows(key, batch, *, rows):
    """Every film rolled by an amount of its row's own."""

    def shift(row, image):
        return jnp.roll(image, jax.random.randint(jax.random.fold_in(key, row), (), 0, 16))

    return {**batch, "images": jax.vmap(shift)(rows, batch["images"])}


def test_augmentation_draws_by_the_row_in_the_global_batch():
    batch, tx, mesh = batch_of(8), optax.adam(1e-3), mesh_of(1)
    states = [
        run(
            make_train_step(Affine(), tx, losses.cross_entropy, augment=augment),
            fresh(Affine(), tx, batch, mesh=mesh),
            [batch],
            mesh,
        )[0]
        for augment in (None, shifted_rows)
    ]
    assert float(states[0].opt_state[0].mu["weight"]) != float(states[1].opt_state[0].mu["weight"])
    step = make_train_step(
        Affine(), tx, losses.cross_entropy, augment=shifted_rows, axis_name="data"
    )
    state = TrainState.create(Affine(), tx, jax.random.key(0), batch["images"])
    shared = {name: array.reshape(8, 1, *array.shape[1:]) for name, array in batch.items()}
    assert_same(parallel.pmap_step(step)(state, shared)[0], states[1], atol=2e-6)


def test_augmentation_that_cannot_know_the_row_is_refused_under_pmap():
    with pytest.raises(ValueError, match="every device would draw alike"):
        make_train_step(
            Affine(),
            optax.adam(1e-3),
            losses.cross_entropy,
            augment=lambda key, batch: batch,  # noqa: ARG005
            axis_name="data",
        )


@pytest.mark.parametrize("unroll", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_many_steps_in_one_program_give_the_state_of_single_steps(unroll):
    films, tx, mesh = batch_of(10), optax.adam(1e-3), mesh_of(1)
    step = make_train_step(MODEL, tx, losses.cross_entropy)
    indices = np.array([[3, 1, 4], [9, 2, 6], [8, -1, -1]], np.int32)
    single, many = (jax.jit(make_many_steps(step, unroll=unroll)) for _ in range(2))
    one, losses_of_one = fresh(MODEL, tx, films, mesh=mesh), []
    for row in indices:
        one, measured = single(one, films, row[None])
        losses_of_one.append(float(measured["loss"][0]))
    other, measured = many(fresh(MODEL, tx, films, mesh=mesh), films, indices)
    assert_same(one, other, atol=1e-6)
    np.testing.assert_allclose(measured["loss"], losses_of_one, rtol=1e-5)
    np.testing.assert_array_equal(measured["images"], [3, 3, 1])


@pytest.mark.slow
def test_gathered_batches_shared_out_over_devices_give_the_state_of_one_device():
    films, tx = batch_of(10), optax.adam(1e-3)
    step = make_train_step(MODEL, tx, losses.cross_entropy)
    indices = np.array([[3, 1, 4, 7, -1, -1, -1, -1], [9, 2, 6, 8, -1, -1, -1, -1]], np.int32)
    states = [
        parallel.jit_many_steps(step, mesh)(
            fresh(MODEL, tx, films, mesh=mesh), parallel.replicate(films, mesh), indices
        )[0]
        for mesh in (mesh_of(1), mesh_of(8))
    ]
    assert_same(*states, atol=2e-6)


def test_the_state_is_donated():
    batch, tx, mesh = batch_of(2), optax.adam(1e-3), mesh_of(1)
    state = fresh(Affine(), tx, batch, mesh=mesh)
    before = state.params["weight"]
    run(make_train_step(Affine(), tx, losses.cross_entropy), state, [batch], mesh)
    assert before.is_deleted()


def test_equal_seeds_give_equal_bits_and_dropout_changes_with_the_step():
    batch, tx, mesh = batch_of(4), optax.sgd(0.0), mesh_of(1)
    step = make_train_step(MODEL, tx, losses.cross_entropy)
    compiled = parallel.jit_step(step, mesh)
    seen = []
    for _ in range(2):
        state = fresh(MODEL, tx, batch, mesh=mesh)
        losses_seen = []
        for _ in range(2):
            state, measured = compiled(state, parallel.shard_batch(batch, mesh))
            losses_seen.append(float(measured["loss"]))
        seen.append(losses_seen)
    assert seen[0] == seen[1]
    # Nothing is learnt at rate 0, so only other dropout can change the loss.
    assert seen[0][0] != seen[0][1]


def test_the_moving_average_follows_its_recurrence():
    batch, tx, mesh = batch_of(2), optax.sgd(0.5), mesh_of(1)
    step = parallel.jit_step(
        make_train_step(Affine(), tx, losses.cross_entropy, ema_decay=0.15), mesh
    )
    state = fresh(Affine(), tx, batch, mesh=mesh, ema=True)
    expected = 1.0
    for decay in (1 / 10, 0.15, 0.15):
        state, _ = step(state, parallel.shard_batch(batch, mesh))
        expected = decay * expected + (1 - decay) * float(state.params["weight"])
        np.testing.assert_allclose(state.ema["weight"], expected, rtol=1e-6)
    assert state.variables()["params"] is state.ema


def test_a_moving_average_needs_a_state_that_keeps_one():
    batch, tx, mesh = batch_of(2), optax.sgd(0.5), mesh_of(1)
    step = make_train_step(Affine(), tx, losses.cross_entropy, ema_decay=0.5)
    with pytest.raises(ValueError, match="ema=True"):
        run(step, fresh(Affine(), tx, batch, mesh=mesh), [batch], mesh)


def test_batch_statistics_are_carried_in_the_state():
    batch, tx, mesh = batch_of(4), optax.sgd(0.1), mesh_of(1)
    before = fresh(MODEL, tx, batch, mesh=mesh)
    means = np.asarray(before.collections["batch_stats"]["Normalization_0"]["BatchNorm_0"]["mean"])
    after, _ = run(make_train_step(MODEL, tx, losses.cross_entropy), before, [batch], mesh)
    moved = after.collections["batch_stats"]["Normalization_0"]["BatchNorm_0"]["mean"]
    assert float(np.abs(np.asarray(moved) - means).max()) > 1e-4


def test_evaluation_counts_the_pixels_that_numpy_counts():
    batch = batch_of(5)
    state = TrainState.create(Affine(), optax.sgd(0.1), jax.random.key(0), batch["images"])
    state = state.replace(params={"weight": jnp.float32(4.0), "offset": jnp.float32(-2.0)})
    evaluate = parallel.jit_rows(make_eval_step(Affine(), losses.cross_entropy), mesh_of(1))
    result = evaluate(state, batch)
    logits = 4 * batch["images"][..., 0].astype(np.float64) - 2
    predicted, actual = logits > 0, batch["labels"] == 1
    np.testing.assert_array_equal(result.counts.tp[:, 0], (predicted & actual).sum((1, 2)))
    np.testing.assert_array_equal(result.counts.fn[:, 0], (~predicted & actual).sum((1, 2)))
    p = 1 / (1 + np.exp(-logits))
    loss = -np.where(actual, np.log(p), np.log(1 - p)).mean((1, 2))
    np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(result.soft_dice.overlap[:, 0], (p * actual).sum((1, 2)), rtol=1e-5)


def test_a_model_without_valid_trains_and_its_loss_falls():
    batch = {**batch_of(4), "labels": (batch_of(4)["images"][..., 0] > 0.5).astype(np.int32)}
    tx, mesh = optax.adam(0.1), mesh_of(8)
    step = parallel.jit_step(make_train_step(Affine(), tx, losses.cross_entropy), mesh)
    state = fresh(Affine(), tx, batch, mesh=mesh)
    values = []
    for _ in range(30):
        state, measured = step(state, parallel.shard_batch(batch, mesh))
        values.append(float(measured["loss"]))
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("form", ["jit", "pmap", "many", "shards"])
def test_calls_on_several_cpu_devices_do_not_queue(form):
    # More than 32 that wait can stop for ever there; see `parallel.compiled._without_queue`.
    def slow_loss(logits, labels, *, where=None):
        slowed = jax.lax.fori_loop(0, 5000, lambda _, x: jnp.sin(x), logits)
        return losses.cross_entropy(slowed, labels, where=where)

    batch, tx, mesh = batch_of(8, size=32), optax.sgd(0.1), mesh_of(8)
    step = make_train_step(Affine(), tx, slow_loss, axis_name="data" if form == "pmap" else None)
    state, placed = fresh(Affine(), tx, batch, mesh=mesh), parallel.shard_batch(batch, mesh)
    rows = parallel.over_rows(mesh, axis=1)
    if form == "jit":
        compiled, arguments = parallel.jit_step(step, mesh), [placed]
    elif form == "pmap":
        shares = jax.tree.map(lambda rows: rows.reshape(8, 1, *rows.shape[1:]), batch)
        compiled, arguments = parallel.pmap_step(step), [shares]
    elif form == "many":
        indices = jax.device_put(np.arange(8, dtype=np.int32)[None], rows)
        compiled, arguments = parallel.jit_many_steps(step, mesh), [batch, indices]
    else:
        indices = jax.device_put(np.zeros((1, 8), np.int32), rows)
        films = {name: placed[name] for name in batch}
        compiled, arguments = parallel.jit_many_steps_on_shards(step, mesh), [films, indices]
    for _ in range(2):
        state, measured = compiled(state, *arguments)
        assert all(array.is_ready() for array in jax.tree.leaves((state.params, measured)))


def test_a_batch_whose_arrays_differ_in_rows_is_refused():
    with pytest.raises(ValueError, match="differ in rows"):
        parallel.shard_batch(
            {"images": np.zeros((2, 4, 4, 1)), "labels": np.zeros((3, 4, 4))}, mesh_of(1)
        )


def test_gathering_takes_the_rows_named_and_marks_padding():
    films = batch_of(4)
    batch = training.gather_batch(films, jnp.array([2, -1, 0]))
    np.testing.assert_array_equal(batch["images"][0], films["images"][2])
    np.testing.assert_array_equal(batch["labels"][2], films["labels"][0])
    np.testing.assert_array_equal(batch["valid"], [True, False, True])
