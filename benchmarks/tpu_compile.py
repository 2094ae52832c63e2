"""Memory, traffic and collectives of train step and augmentation, compiled for a TPU slice.

    python -m benchmarks.tpu_compile [--topology v5e:2x4 ...] [--batch 960 ...] [--model baseline]
    python -m benchmarks.tpu_compile --augment

Needs libtpu (``pip install -e '.[tpu]'``) and no TPU. A program takes minutes on two cores.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import protocol, report, tpu_programs
from benchmarks.roofline import CHIPS
from experiments import command
from experiments.configs import CONFIGURATIONS
from jaxseg import augment
from jaxseg.errors import InputError

COLUMNS = (
    "name", "images_per_chip", "traffic_MB_per_image", "temporary_MB_per_image",
    "GFLOP_per_image", "memory_MB_per_chip", "collectives", "sent_MB_per_chip", "roofline_ms",
    "links_ms", "gathers", "compile_seconds"
)  # fmt: skip


def row(name: str, found: dict[str, Any], images: float, chip: Any, dtype: str) -> dict[str, Any]:
    """Returns the row of a program with this many images a chip."""
    peak = chip.float32_flops if dtype == "float32" else chip.bfloat16_flops
    roofline = max(found["flops"] / peak, found["traffic"] / chip.bytes_per_second)
    counts = [f"{count} {kind}" for kind, (count, _) in found["collectives"].items()]
    return {
        "name": name,
        "images_per_chip": images,
        "traffic_MB_per_image": found["traffic"] / images / 1e6,
        "temporary_MB_per_image": found["temporary"] / images / 1e6,
        "GFLOP_per_image": found["flops"] / images / 1e9,
        "memory_MB_per_chip": (found["arguments"] + found["temporary"]) / 1e6,
        "collectives": ", ".join(counts),
        "sent_MB_per_chip": found["sent"] / 1e6,
        "roofline_ms": 1e3 * roofline,
        "links_ms": 1e3 * found["sent"] / chip.link_bytes_per_second,
        "gathers": found["gathers"],
        "compile_seconds": found["compile_seconds"],
        "donated_fraction": found.get("donated_fraction"),
    }


def train_steps(topology: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the row of each batch size; of one that the compiler refuses, the reason."""
    mesh, configuration = tpu_programs.mesh_of(topology), CONFIGURATIONS[options.model]
    chip, model = _chip(mesh.devices.flat[0], topology), configuration.model()
    dtype = "float32" if options.float32 else "bfloat16"
    for batch in options.batch or [16 * mesh.size]:
        if batch % (mesh.size * options.microbatches):
            raise InputError(
                f"--batch: {batch} is not a multiple of {mesh.size * options.microbatches}"
            )
        name = f"train step, {topology}, {dtype}"
        try:
            found = tpu_programs.train_step_program(
                mesh, model.clone(dtype=jnp.dtype(dtype)), configuration.optimizer(1000),
                configuration.loss(), batch=batch, size=options.size,
                microbatches=options.microbatches,
            )  # fmt: skip
        except jax.errors.JaxRuntimeError as error:
            print(f"{name}, batch {batch} does not compile:\n{str(error).strip()[:1500]}")
            yield {"name": name, "images_per_chip": batch / mesh.size, "refused": str(error)}
        else:
            yield row(name, found, batch / mesh.size, chip, dtype)


def augmentations(topology: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the rows of the warp in two forms and of the robust augmentation, on one chip."""
    device, count = tpu_programs.describe(topology)[0], (options.batch or [16])[0]
    sharding = NamedSharding(tpu_programs.parallel.make_mesh([device]), PartitionSpec())

    def spec(shape: tuple[int, ...], dtype: Any) -> Any:
        return tpu_programs.with_sharding(jax.ShapeDtypeStruct(shape, dtype), sharding)

    def augmented(strengths: augment.Strengths) -> Any:
        change = augment.make_augment(strengths)
        return lambda words, batch: change(jax.random.wrap_key_data(words), batch)

    square = (count, options.size, options.size)
    labels, words = spec(square, jnp.uint8), spec((2,), jnp.uint32)
    batch = {"images": spec((*square, 1), jnp.uint8), "labels": labels}
    moves = ("rotation", "scale", "shift", "shear")
    warp = augment.Strengths(**{name: getattr(augment.ROBUST, name) for name in moves})
    pixels = (spec((*square, 1), jnp.float32), labels, spec((count, 2, 3), jnp.float32))
    programs = {
        "warp by pixels": (augment.warp, pixels),
        "warp by tiles": (augmented(warp), (words, batch)),
        "robust augmentation": (augmented(augment.ROBUST), (words, batch)),
    }
    for name, (function, arguments) in programs.items():
        found = tpu_programs.cost(jax.jit(function).lower(*arguments), chips=1)
        yield row(f"{name}, {topology}", found, count, _chip(device, topology), "float32")


def _chip(device: Any, topology: str) -> Any:
    if device.device_kind not in CHIPS:
        raise InputError(f"--topology: {topology}: no peaks are recorded for {device.device_kind}")
    return CHIPS[device.device_kind]


def main() -> None:
    """Compiles and publishes."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--topology", nargs="+", default=["v5e:2x4"], help="slices (v5e:2x4)")
    parser.add_argument("--model", choices=CONFIGURATIONS, default="baseline", help="configuration")
    parser.add_argument("--batch", type=int, nargs="+", help="global batch sizes (16 a chip)")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (256)")
    parser.add_argument("--microbatches", type=int, default=1, help="equal parts of a batch (1)")
    parser.add_argument("--float32", action="store_true", help="compute in float32, not bfloat16")
    parser.add_argument("--augment", action="store_true", help="augmentation on one chip instead")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    programs = augmentations if options.augment else train_steps
    rows = [row for topology in options.topology for row in programs(topology, options)]
    names = ("topology", "model", "size", "microbatches", "augment")
    settings = {name: getattr(options, name) for name in names}
    report.publish(report.make("tpu_compile", settings, rows), COLUMNS, options.json)


if __name__ == "__main__":
    command.run(main)
