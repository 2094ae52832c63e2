"""Checkpoints are restored bit for bit, and survive errors while saving."""

import functools
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from jaxseg import UNet, parallel
from jaxseg.checkpoint import Checkpoints
from jaxseg.errors import InputError
from jaxseg.training import TrainState

MODEL = UNet(widths=(4, 8), norm="batch")
IMAGES = jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32)


@functools.cache
def new_state(seed):
    """A state of random numbers, which needs no compiling."""
    shapes = jax.eval_shape(
        lambda key: TrainState.create(MODEL, optax.adam(1e-3), key, IMAGES, ema=True),
        jax.random.key(0),
    )
    rng = np.random.default_rng(seed)

    def leaf(shape):
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        return jnp.asarray(100 * rng.random(shape.shape)).astype(shape.dtype)

    return jax.tree.map(leaf, shapes).replace(step=jnp.int32(0))


def state_at(step, *, seed=0):
    return new_state(seed).replace(step=jnp.int32(step))


def plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_same_bits(one, other):
    one, other = (jax.tree.map(plain, state) for state in (one, other))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_restored_state_has_the_bits_and_the_progress_that_were_saved(tmp_path):
    saved = state_at(7, seed=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, {"loss": 0.5, "epoch": 3, "names": ["a"], "best": None})
    with Checkpoints(tmp_path, resume=True) as checkpoints:
        assert checkpoints.latest_step() == 7
        restored, progress = checkpoints.restore(state_at(0), 7)
    assert_same_bits(restored, saved)
    assert progress == {"loss": 0.5, "epoch": 3, "names": ["a"], "best": None}
    assert jax.random.uniform(restored.key) == jax.random.uniform(saved.key)


def kinds(state):
    return [leaf.dtype for leaf in jax.tree.leaves(state)]


@pytest.mark.slow
def test_typed_keys_of_any_implementation_are_restored_into_arrays_and_into_shapes(tmp_path):
    tx = optax.chain(optax.add_noise(0.1, 0.55, jax.random.key(3)), optax.sgd(0.1))
    key = jax.random.key(1, impl="rbg")
    saved = TrainState.create(MODEL, tx, key, IMAGES)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, {})
        for like in (saved, jax.eval_shape(lambda: saved)):
            restored, _ = checkpoints.restore(like, 0)
            assert_same_bits(restored, saved)
            assert jax.random.key_impl(restored.key) == "rbg"
            assert jax.random.uniform(restored.key) == jax.random.uniform(saved.key)
            assert kinds(restored) == kinds(saved)


def test_a_step_that_is_not_after_the_latest_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(10), {}, score=0.5)
        for step in (5, 10):
            with pytest.raises(InputError, match=f"step {step} is not after step 10"):
                checkpoints.save(state_at(step), {}, score=0.9)
        checkpoints.save(state_at(11), {})
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (11, 10)


def test_checkpoints_of_another_run_are_refused_when_opened_and_left_alone(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {})
    # The other run may be saving just now.
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"checkpoints of another run\. Pass resume=True"):
        Checkpoints(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_only_a_half_written_checkpoint_can_be_opened(tmp_path):
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(state_at(1), {})
    assert {path.name for path in tmp_path.iterdir()} == {"1"}


def test_saving_does_not_query_for_a_preemption(tmp_path, monkeypatch):
    queries = []
    monkeypatch.setattr(orbax.checkpoint.utils, "reached_preemption", queries.append)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {})
        checkpoints.wait()
    assert not queries


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8)])
def test_a_state_is_restored_on_another_number_of_devices(before, after, tmp_path):
    one, other = (parallel.make_mesh(jax.devices()[:count]) for count in (before, after))
    saved = state_at(1, seed=2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(parallel.replicate(saved, one), {})
    with Checkpoints(tmp_path, resume=True) as checkpoints:
        restored, _ = checkpoints.restore(parallel.replicate(state_at(0), other), 1)
    assert_same_bits(restored, saved)
    assert len(restored.params["head"]["kernel"].sharding.device_set) == after


def test_the_latest_two_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.8)):
            checkpoints.save(state_at(step), {}, score=score)
    with Checkpoints(tmp_path, resume=True) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (5, 2)
    assert {int(path.name) for path in tmp_path.iterdir()} == {2, 4, 5}


@pytest.mark.parametrize("scores", [(0.9, math.nan, 0.5, 0.6), (0.5, 0.9, 0.6, math.nan)])
def test_a_score_of_nan_neither_wins_nor_hides_the_best(scores, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in enumerate(scores):
            checkpoints.save(state_at(step), {}, score=score)
        assert checkpoints.best_step() == scores.index(0.9)


def test_a_reader_changes_nothing_while_another_process_saves(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {"epoch": 1}, score=0.5)
    being_saved = tmp_path / "2.orbax-checkpoint-tmp"
    being_saved.mkdir()
    (being_saved / "half").write_text("written")
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
        restored, progress = checkpoints.restore(state_at(0), 1)
        with pytest.raises(InputError, match="read-only"):
            checkpoints.save(state_at(3), {})
    assert_same_bits(restored, state_at(1))
    assert progress == {"epoch": 1}
    assert sorted(tmp_path.rglob("*")) == before
    # A writer deletes what a killed process left, in the background until its first save.
    with Checkpoints(tmp_path, resume=True) as checkpoints:
        checkpoints.save(state_at(3), {"epoch": 3})
        assert not being_saved.exists()


def test_without_scores_there_is_no_best_and_the_latest_two_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step), {})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step() is None
    assert {int(path.name) for path in tmp_path.iterdir()} == {2, 3}


def test_an_empty_folder_has_no_latest_step(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.best_step() is None


FULL_DISK = """
import resource, sys
sys.path.insert(0, "tests")
from test_checkpoint import Checkpoints, state_at
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(state_at(1), {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may grow, as on a full disk
steps = iter(range(2, 9))
save = lambda: checkpoints.save(state_at(next(steps)), {})
for next_call in (save, checkpoints.wait, checkpoints.close):
    try:
        save()
        next_call()
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_last_checkpoint_stays_good(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 3, done.stdout
    for message in messages:
        assert message.startswith(f"InputError {tmp_path}: cannot save a checkpoint (File too la")
        assert "The latest complete one is of step 1." in message
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 1
        restored, _ = checkpoints.restore(state_at(0), 1)
    assert_same_bits(restored, state_at(1))


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match="no checkpoint of step 3"),
    ):
        checkpoints.restore(state_at(0), 3)


KERNEL = r"bottleneck/Conv_0/kernel is float32\[3, 3, 4, 8\] in the checkpoint and "


@pytest.mark.parametrize(
    ("model", "ema", "leaf"),
    [
        (UNet(widths=(4, 6), norm="batch"), True, "params/" + KERNEL + r"float32\[3, 3, 4, 6\]"),
        (UNet(widths=(4, 8, 16), norm="batch"), True, "params/" + KERNEL + r"float32\[3, 3, 8, 1"),
        (UNet(widths=(4, 8)), True, r"params/bottleneck/Conv_0/bias is absent in the checkpoint"),
        (MODEL, False, "ema/" + KERNEL + "absent in this run"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_first_leaf_that_differs(
    model, ema, leaf, tmp_path
):
    other = jax.eval_shape(
        lambda: TrainState.create(model, optax.adam(1e-3), jax.random.key(0), IMAGES, ema=ema)
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(3), {})
        with pytest.raises(InputError, match=leaf):
            checkpoints.restore(other, 3)


def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/checkpoints: cannot be written to"):
        Checkpoints(tmp_path / "file" / "checkpoints")
