"""Memory traffic of augmentation compiled for a TPU, per image; no TPU is needed.

    python -m benchmarks.augment_tpu [--topology NAME] [--size N] [--images N]

Compiles the warp of other devices (by pixels), the warp of TPUs (by tiles) and the whole
augmentation for one described chip, and prints XLA's cost analysis. This shows that they compile,
and how much memory traffic they cause, not how fast they are. Needs the extra tpu; a few minutes on
two cores.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks.tpu_programs import describe
from experiments import command
from jaxseg import augment


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--topology", default="v5e:2x2", help="a TPU slice (default: v5e:2x2)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: 256)")
    parser.add_argument("--images", type=int, default=16, help="images per batch (default: 16)")
    options = parser.parse_args()
    count, size = options.images, options.size
    jax.config.update("jax_platforms", "cpu")
    sharding = SingleDeviceSharding(describe(options.topology)[0])

    def spec(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)

    def augmented(strengths: augment.Strengths):
        change = augment.make_augment(strengths)
        return lambda words, batch: change(jax.random.wrap_key_data(words), batch)

    images = spec((count, size, size, 1), "float32")
    labels = spec((count, size, size), "uint8")
    batch = {"images": spec(images.shape, "uint8"), "labels": labels}
    words = spec((2,), "uint32")
    moves = ("rotation", "scale", "shift", "shear")
    moving = augment.Strengths(**{name: getattr(augment.ROBUST, name) for name in moves})
    programs = {
        "warp by pixels": (augment.warp, (images, labels, spec((count, 2, 3), "float32"))),
        "warp by tiles": (augmented(moving), (words, batch)),
        "all": (augmented(augment.ROBUST), (words, batch)),
    }
    print(
        f"jax {jax.__version__}, {options.topology}, {count} images of {size} x {size}, per image:"
    )
    print()
    print("| program | MB accessed | GFLOP | MB temporary | gathers | compiled in |")
    print("|---" * 6 + "|")
    for name, (function, arguments) in programs.items():
        began = time.perf_counter()
        compiled: Any = jax.jit(function).lower(*arguments).compile()
        seconds = time.perf_counter() - began
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        moved, flops = (cost[kind] / count for kind in ("bytes accessed", "flops"))
        room = memory.temp_size_in_bytes / count
        print(
            f"| {name} | {moved / 1e6:.0f} | {flops / 1e9:.2f} | {room / 1e6:.1f} | "
            f"{compiled.as_text().count(' gather(')} | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    command.run(main)
