"""The train step and the augmentation, compiled for a TPU slice that is only described.

    python -m benchmarks.tpu_programs [--topology v5e:2x4] [--batch 128 512 960] [--microbatches 1]
    python -m benchmarks.tpu_programs --augment

Needs libtpu (``pip install -e '.[tpu]'``), but no TPU and no network. It shows that a program
compiles, its memory and its collectives; it shows no results and no speed. A program of 120 images
a chip takes half an hour on two cores.
"""

import argparse
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils, topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import protocol, report
from experiments import command
from experiments.configs import CONFIGURATIONS
from jaxseg import augment, parallel
from jaxseg.errors import InputError
from jaxseg.training import Model, TrainState, make_train_step

# Operations (bfloat16) and bytes a second of a chip by JAX's device_kind, from Google's pages.
PEAKS = {
    "TPU v5 lite": (197e12, 819e9),
    "TPU v6 lite": (918e12, 1640e9),
    "TPU v5": (459e12, 2765e9),
}

COLUMNS = (
    "name", "images_per_chip", "traffic_MB_per_image", "temporary_MB_per_image", "GFLOP_per_image",
    "collectives", "sent_MB_per_chip", "roofline_ms", "compile_seconds",
)  # fmt: skip


def mesh_of(topology: str) -> Mesh:
    """Returns a mesh of the devices of a slice such as ``v5e:2x4``, neighbors next to each other.

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
    return parallel.make_mesh(list(mesh_utils.create_device_mesh((len(devices),), devices).flat))


def train_step(mesh: Mesh, model: Model, *, batch: int, size: int, microbatches: int = 1) -> Any:
    """Returns the lowered train step of the Keras baseline's optimizer and loss.

    Args:
        mesh: Devices, described or real.
        model: The network.
        batch: Global batch size; images are uint8 with one channel.
        size: Height and width of the images in pixels.
        microbatches: As in `jaxseg.make_train_step`.
    """
    baseline = CONFIGURATIONS["baseline"]
    tx, loss = baseline.optimizer(1000), baseline.loss()
    images = jax.ShapeDtypeStruct((batch, size, size, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((batch, size, size), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: TrainState.create(model, tx, key, images), key)
    state = with_sharding(state, parallel.replicated(mesh))
    arrays = with_sharding({"images": images, "labels": labels}, parallel.sharded(mesh))
    step = make_train_step(model, tx, loss, microbatches=microbatches)
    return parallel.jit_step(step, mesh).lower(state, arrays)


def augmentations(mesh: Mesh, *, batch: int, size: int) -> dict[str, Any]:
    """Returns the lowered warp in two forms and the robust augmentation, on one chip."""
    sharding = NamedSharding(parallel.make_mesh([mesh.devices.flat[0]]), PartitionSpec())

    def spec(shape: tuple[int, ...], dtype: Any) -> Any:
        return with_sharding(jax.ShapeDtypeStruct(shape, dtype), sharding)

    def augmented(strengths: augment.Strengths) -> Any:
        change = augment.make_augment(strengths)
        return lambda words, batch: change(jax.random.wrap_key_data(words), batch)

    square = (batch, size, size)
    labels, words = spec(square, jnp.uint8), spec((2,), jnp.uint32)
    images = {"images": spec((*square, 1), jnp.uint8), "labels": labels}
    moves = ("rotation", "scale", "shift", "shear")
    warp = augment.Strengths(**{name: getattr(augment.ROBUST, name) for name in moves})
    pixels = (spec((*square, 1), jnp.float32), labels, spec((batch, 2, 3), jnp.float32))
    return {
        "warp by pixels": jax.jit(augment.warp).lower(*pixels),
        "warp by tiles": jax.jit(augmented(warp)).lower(words, images),
        "robust augmentation": jax.jit(augmented(augment.ROBUST)).lower(words, images),
    }


def with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    """Returns descriptions of arrays that have this sharding."""
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), tree
    )


def compiled_row(name: str, lowered: Any, mesh: Mesh, images: float) -> dict[str, Any]:
    """Compiles a program; returns its cost on a chip with this many images, according to XLA.

    Raises:
        InputError: The peak rates of the chip are not recorded.
        jax.errors.JaxRuntimeError: The compiler refuses, for example because of the memory.
    """
    kind = mesh.devices.flat[0].device_kind
    if kind not in PEAKS:
        raise InputError(f"--topology: no peak rates are recorded for {kind}")
    flops_per_second, bytes_per_second = PEAKS[kind]
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    found = collectives(compiled.as_text())
    roofline = max(cost["flops"] / flops_per_second, cost["bytes accessed"] / bytes_per_second)
    return {
        "name": name,
        "images_per_chip": images,
        "traffic_MB_per_image": cost["bytes accessed"] / images / 1e6,
        "temporary_MB_per_image": memory.temp_size_in_bytes / images / 1e6,
        "GFLOP_per_image": cost["flops"] / images / 1e9,
        "collectives": ", ".join(f"{count} {kind}" for kind, (count, _) in found.items()),
        "sent_MB_per_chip": sent(found, chips=mesh.size) / 1e6,
        "roofline_ms": 1e3 * roofline,
        "compile_seconds": seconds,
    }


_OPERATION = re.compile(
    r"= (?P<result>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all"
    r"|collective-permute)(?P<start>-start)?\("
)
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


def programs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the row of each program that the command line asks for."""
    mesh = mesh_of(options.topology)
    if options.augment:
        for name, lowered in augmentations(mesh, batch=16, size=256).items():
            yield compiled_row(name, lowered, mesh, 16)
        return
    model = CONFIGURATIONS["baseline"].model().clone(dtype=jnp.bfloat16)
    for batch in options.batch:
        if batch % (mesh.size * options.microbatches):
            divisor = mesh.size * options.microbatches
            raise InputError(f"--batch: {batch} is not a multiple of {divisor}")
        lowered = train_step(mesh, model, batch=batch, size=256, microbatches=options.microbatches)
        yield compiled_row("train step, bfloat16", lowered, mesh, batch / mesh.size)


def main() -> None:
    """Compiles and publishes."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--topology", default="v5e:2x4", help="slice (v5e:2x4)")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="global sizes (128)")
    parser.add_argument("--microbatches", type=int, default=1, help="equal parts of a batch (1)")
    parser.add_argument("--augment", action="store_true", help="augmentation on one chip instead")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    settings = {name: getattr(options, name) for name in ("topology", "microbatches", "augment")}
    rows = list(programs(options))
    report.publish(report.make("tpu_programs", settings, rows), COLUMNS, options.json)


if __name__ == "__main__":
    command.run(main)
