"""Trains five steps in one of the forms that run on many devices.

    python -m tests.five_steps FORM MICROBATCHES SAMPLE RESULT.npz HOST:PORT PROCESSES PROCESS

Under jit the steps contain everything that could depend on sharding: AdamW with clipping, dropout,
augmentation, and either batch norm with a pooled loss, or microbatches with group norm and a loss
per image. Under pmap there is no dropout, no augmentation and no pooled loss.
"""

import os
import sys
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from jaxseg import UNet, losses, parallel
from jaxseg.augment import Strengths, make_augment
from jaxseg.training import TrainState, make_train_step

FORMS = ("jit", "pmap")
STEPS = 5
ROWS, SIZE = 32, 16


def batch_of(step: int, *, seed: int) -> dict[str, np.ndarray]:
    """Returns the whole batch of a step."""
    rng = np.random.default_rng([seed, step])
    labels = rng.random((ROWS, SIZE // 4, SIZE // 4)).repeat(4, 1).repeat(4, 2) > 0.5
    noise = rng.random((ROWS, SIZE, SIZE, 1), dtype=np.float32)
    return {
        "images": 0.5 * noise + 0.5 * labels[..., None].astype(np.float32),
        "labels": labels.astype(np.int32),
    }


def train(
    form: str, devices: list[Any], *, microbatches: int = 1, sample: int = 1, random: bool = True
) -> dict[str, np.ndarray]:
    """Trains five steps from the same initial state.

    Args:
        form: One of `FORMS`.
        devices: Devices of all processes.
        microbatches: Above 1: group norm and a loss per image. 1: batch norm.
        sample: Seed of the images.
        random: Whether to use dropout, augmentation and a pooled loss; not possible under pmap.

    Returns:
        Every leaf of the state, and the last step's metrics, by name.
    """
    is_random = random and form == "jit"
    rate = 0.25 if is_random else 0.0
    model = UNet(
        widths=(4, 8),
        norm="batch" if microbatches == 1 else "group",
        norm_groups=4,
        dropout=rate,
        decoder_dropout=rate,
    )
    # With its default epsilon, Adam takes whole steps for gradients that are rounding errors.
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-3, eps=1e-5))
    change = make_augment(Strengths(rotation=10.0, contrast=0.3, noise=0.02))
    step = make_train_step(
        model,
        tx,
        partial(losses.soft_dice, pooled=is_random and microbatches == 1),
        augment=change if is_random else None,
        microbatches=microbatches,
        axis_name=parallel.DATA if form == "pmap" else None,
    )
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), np.float32)
    state = TrainState.create(model, tx, jax.random.key(0), images)
    mesh = parallel.make_mesh(devices)
    if form == "pmap":
        local = len(mesh.local_devices)
        compiled = parallel.pmap_step(step, devices=devices)
    else:
        local = 0
        compiled = parallel.jit_step(step, mesh)
        state = parallel.replicate(state, mesh)
    measured = {}
    for number in range(STEPS):
        rows = parallel.local_rows(ROWS, mesh)
        batch: Any = {name: array[rows] for name, array in batch_of(number, seed=sample).items()}
        if form == "pmap":
            batch = jax.tree.map(lambda a: a.reshape(local, -1, *a.shape[1:]), batch)
        else:
            batch = parallel.shard_batch(batch, mesh)
        state, measured = compiled(state, batch)
    state = state.replace(key=jax.random.key_data(state.key))
    leaves = jax.tree.leaves_with_path({"state": state, "metrics": measured})
    return {
        jax.tree_util.keystr(path): np.asarray(leaf.addressable_data(0)) for path, leaf in leaves
    }


def main() -> None:
    """Joins the other processes, trains, and in process 0 writes the leaves."""
    form, microbatches, sample, result, coordinator, processes, process = sys.argv[1:]
    parallel.initialize(coordinator, num_processes=int(processes), process_id=int(process))
    leaves = train(form, jax.devices(), microbatches=int(microbatches), sample=int(sample))
    if jax.process_index() == 0:
        np.savez(result, allow_pickle=False, **leaves)
    # Process 0 hosts the coordinator, so it must not exit before the others.
    with parallel.all_or_none("ending"):
        pass
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
