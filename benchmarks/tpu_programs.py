"""Programs compiled for TPU slices that are only described: memory, traffic and collectives.

This needs libtpu (``pip install -e '.[tpu]'``) but no TPU and no network. It shows that a program
compiles, its memory and its collectives; it shows no results and no speed.
"""

import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import mesh_utils, topologies
from jax.sharding import Mesh, NamedSharding

from jaxseg import parallel
from jaxseg.errors import InputError
from jaxseg.training import Loss, Model, TrainState, make_train_step


def describe(topology: str) -> list[Any]:
    """Returns the devices of a slice such as ``v5e:2x4``, neighbors next to each other.

    Raises:
        InputError: libtpu is not installed or knows no such slice.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"--topology: {topology}: {reason[0] if reason else error!r}") from None
    return list(mesh_utils.create_device_mesh((len(devices),), devices).flat)


def mesh_of(topology: str) -> Mesh:
    """Returns a mesh of a described slice."""
    return parallel.make_mesh(describe(topology))


def train_step_program(
    mesh: Mesh,
    model: Model,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    batch: int,
    size: int,
    microbatches: int = 1,
) -> dict[str, Any]:
    """Compiles a train step for the devices of a mesh; returns `cost` of it.

    Args:
        mesh: Devices, described or real.
        model: The network.
        tx: The optimizer.
        loss: The loss.
        batch: Global batch size; images are uint8 with one channel.
        size: Height and width of the images in pixels.
        microbatches: As in `jaxseg.make_train_step`.

    Raises:
        jax.errors.JaxRuntimeError: The compiler refuses, for example because of the memory.
    """
    images = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((batch, size, size), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: TrainState.create(model, tx, key, images), key)
    state = with_sharding(state, parallel.replicated(mesh))
    arrays = with_sharding({"images": images, "labels": labels}, parallel.sharded(mesh))
    step = make_train_step(model, tx, loss, microbatches=microbatches)
    found = cost(parallel.jit_step(step, mesh).lower(state, arrays), chips=mesh.size)
    found["donated_fraction"] = found.pop("donated") / len(jax.tree.leaves(state))
    return found


def with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    """Returns descriptions of arrays that have this sharding."""
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), tree
    )


def cost(lowered: Any, *, chips: int) -> dict[str, Any]:
    """Compiles a lowered program; returns its cost per chip according to XLA, in bytes."""
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds, text = time.perf_counter() - began, compiled.as_text()
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    found = collectives(text)
    return {
        "compile_seconds": seconds,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "flops": analysis["flops"],
        "traffic": analysis["bytes accessed"],
        "gathers": text.count(" gather("),
        "collectives": found,
        "sent": sent(found, chips=chips),
        "donated": len(_ALIAS.findall(text.splitlines()[0])),
    }


_OPERATION = re.compile(
    r"= (?P<result>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all"
    r"|collective-permute)(?P<start>-start)?\("
)
_ALIAS = re.compile(r"\{\}, (?:may|must)-alias\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d\w+)?)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Returns the number of collectives of each kind, and the bytes of their results on a chip.

    Args:
        text: The program, as from `jax.stages.Compiled.as_text`.
    """
    found: dict[str, tuple[int, int]] = {}
    for operation in _OPERATION.finditer(text):
        kind = operation["kind"]
        sizes = [_bytes(*array.groups()) for array in _ARRAY.finditer(operation["result"])]
        if operation["start"] and kind in ("all-gather", "collective-permute"):
            # Operand and result, and what the runtime needs. The result is the largest.
            sizes = [max(sizes)]
        count, size = found.get(kind, (0, 0))
        found[kind] = (count + 1, size + sum(sizes))
    return found


def sent(found: Mapping[str, tuple[int, int]], *, chips: int) -> float:
    """Returns the bytes that a chip sends if all collectives run as rings over all chips."""
    others = (chips - 1) / chips
    factors = {"all-reduce": 2 * others, "reduce-scatter": chips - 1, "collective-permute": 1.0}
    return sum(factors.get(kind, others) * size for kind, (_, size) in found.items())


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"^[a-z]+", "", dtype).split("e")[0])
    return math.prod(int(side) for side in shape.split(",") if side) * bits // 8
