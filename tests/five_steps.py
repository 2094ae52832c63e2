"""Trains five steps in one of the forms that run on many devices; a program for many processes.

    python -m tests.five_steps FORM PARTS DRAW RESULT.npz HOST:PORT PROCESSES PROCESS

The steps hold all that could depend on how a batch is shared out: AdamW with clipping, dropout, a
keyed shift of every row, rows that are padding, and either batch norm with a pooled loss, or, cut
into parts, group norm with one loss per image.
"""

import os
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import UNet, losses, parallel
from jaxseg.training import TrainState, make_train_step

FORMS = ("jit", "spatial", "pmap")
STEPS = 5
ROWS, INVALID, SIZE = 32, 3, 16


def shifted(key: jax.Array, batch: Any, *, rows: jax.Array) -> Any:
    """Every film and its labels rolled by an amount of the row's own."""

    def shift(row: jax.Array, image: jax.Array, labels: jax.Array) -> Any:
        amount = jax.random.randint(jax.random.fold_in(key, row), (2,), -4, 5)
        return tuple(jnp.roll(array, amount, (0, 1)) for array in (image, labels))

    images, labels = jax.vmap(shift)(rows, batch["images"], batch["labels"])
    return {**batch, "images": images, "labels": labels}


def batch_of(step: int, *, seed: int) -> dict[str, np.ndarray]:
    """The whole batch of a step; its last rows are padding that must not count."""
    rng = np.random.default_rng([seed, step])
    labels = rng.random((ROWS, SIZE // 4, SIZE // 4)).repeat(4, 1).repeat(4, 2) > 0.5
    noise = rng.random((ROWS, SIZE, SIZE, 1), dtype=np.float32)
    return {
        "images": 0.5 * noise + 0.5 * labels[..., None].astype(np.float32),
        "labels": labels.astype(np.int32),
        "valid": np.arange(ROWS) < ROWS - INVALID,
    }


def train(
    form: str, devices: list[Any], *, microbatches: int = 1, draw: int = 1
) -> dict[str, np.ndarray]:
    """Five steps from one and the same start.

    Args:
        form: One of `FORMS`.
        devices: Of all processes.
        microbatches: Above 1, and 0 for what that must equal: group norm, a loss per image.
        draw: Seed of the films.

    Returns:
        Every leaf of the state, and the last step's metrics, by name.
    """
    axis_name = parallel.DATA if form == "pmap" else None
    pooled = {"pooled": True, "axis_name": axis_name} if microbatches == 1 else {}
    model = UNet(
        widths=(4, 8),
        norm="batch" if microbatches == 1 else "group",
        dropout=0.25,
        decoder_dropout=0.25,
    )
    # With its default epsilon Adam makes whole steps of gradients that are rounding alone.
    adam = optax.adamw(1e-3, eps=1e-5)
    tx = optax.chain(optax.clip_by_global_norm(0.5), adam)
    step = make_train_step(
        model,
        tx,
        partial(losses.soft_dice, **pooled),
        augment=shifted,
        microbatches=max(microbatches, 1),
        axis_name=axis_name,
    )
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), np.float32)
    state = TrainState.create(model, tx, jax.random.key(0), images)
    measured = {}
    if form == "pmap":
        local = [device for device in devices if device.process_index == jax.process_index()]
        compiled = parallel.pmap_step(step, devices=devices)
        for number in range(STEPS):
            batch = _of_this_process(batch_of(number, seed=draw))
            shared = {
                name: array.reshape(len(local), -1, *array.shape[1:])
                for name, array in batch.items()
            }
            state, measured = compiled(state, shared)
    else:
        mesh = parallel.make_mesh(devices, spatial=2 if form == "spatial" else 1)
        compiled = parallel.jit_step(step, mesh)
        state = parallel.replicate(state, mesh)
        for number in range(STEPS):
            batch = _of_this_process(batch_of(number, seed=draw))
            batch = parallel.shard_batch(batch, mesh)
            state, measured = compiled(state, batch)
    state = state.replace(key=jax.random.key_data(state.key))
    leaves = jax.tree.leaves_with_path({"state": state, "metrics": measured})
    return {
        jax.tree_util.keystr(path): np.asarray(leaf.addressable_data(0)) for path, leaf in leaves
    }


def _of_this_process(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    share = ROWS // jax.process_count()
    first = share * jax.process_index()
    return {name: array[first : first + share] for name, array in batch.items()}


def main() -> None:
    """Joins the other processes, trains, and writes the leaves where this process is the lead."""
    form, parts, draw, result, coordinator, processes, process = sys.argv[1:]
    parallel.initialize(coordinator, num_processes=int(processes), process_id=int(process))
    leaves = train(form, jax.devices(), microbatches=int(parts), draw=int(draw))
    if parallel.is_lead():
        np.savez(result, allow_pickle=False, **leaves)
    # The lead holds the coordinator: it must not go before the others.
    with parallel.together("ending"):
        pass
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
