"""What a train step would need and send on a TPU slice, from the program compiled for it here.

    python -m benchmarks.tpu_compile [--topology v5e:2x4] [--model seed] [--batch 128] [more]

Needs libtpu (``pip install -e '.[tpu]'``) and no TPU. About a minute a program for the
baseline's network.
"""

import argparse
import ast
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import record, tpu_programs
from benchmarks.roofline import CHIPS
from benchmarks.tpu_programs import Generation, Program
from experiments import command
from experiments.configs import CONFIGURATIONS
from jaxseg import UNet
from jaxseg.errors import InputError

MB = 1e6


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topology", nargs="+", default=["v5e:2x4"], help="slices to compile for")
    parser.add_argument("--model", choices=CONFIGURATIONS, default="baseline", help="configuration")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the network"
    )
    parser.add_argument("--batch", type=int, help="rows of the global batch (16 a chip)")
    parser.add_argument("--size", type=int, default=256, help="side of the films in pixels")
    parser.add_argument("--microbatches", type=int, default=1, help="parts of a batch")
    parser.add_argument("--float32", action="store_true", help="compute in float32, not bfloat16")
    parser.add_argument("--rbg", action="store_true", help="the cheaper generator of random bits")
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def network(options: argparse.Namespace) -> UNet:
    """The configuration's network in bfloat16, with the fields that the command line sets.

    Raises:
        InputError: A field that the network lacks, or a value that is none.
    """
    model = CONFIGURATIONS[options.model].model()
    fields: dict[str, Any] = {} if options.float32 else {"dtype": jnp.bfloat16}
    for setting in options.set:
        name, _, value = setting.partition("=")
        if not hasattr(model, name) or name.startswith("_"):
            raise InputError(f"--set: {name} is no field of the network")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return model.clone(**fields)


def report(topology: str, program: Program, generation: Generation, dtype: str) -> dict[str, Any]:
    """Prints what one program holds, and returns it."""
    rows, chip = program.rows_per_chip(), CHIPS[generation.device_kind]
    computing, moving = program.flops / chip.peak(dtype), program.moved / chip.bytes_per_second
    roofline, links = max(computing, moving), program.sent() / generation.links
    kinds = tpu_programs.by_kind(program.collectives)
    print(f"\n{topology}: {program.chips} chips, batch {program.rows}, {rows:g} a chip")
    lines = {
        "compiled in": f"{program.seconds:.0f} s",
        "memory a chip": f"{program.memory() / MB:.1f} MB of {generation.memory / MB:.0f}: "
        f"arguments {program.arguments / MB:.1f}, temporary {program.temporary / MB:.1f}",
        "temporary an image": f"{program.temporary / rows / MB:.1f} MB",
        "moved an image": f"{program.moved / rows / MB:.1f} MB",
        "operations an image": f"{program.flops / rows / 1e9:.2f} GFLOP",
        "state donated": f"{program.donated:.0%}",
        **{kind: f"{count}, {size / MB:.3f} MB in all" for kind, (count, size) in kinds.items()},
        "sent a chip and step": f"{program.sent() / MB:.3f} MB",
        "roofline of a step": f"{1e3 * roofline:.3f} ms = max({1e3 * computing:.3f} operations / "
        f"peak, {1e3 * moving:.3f} moved / bandwidth)",
        "links": f"{1e3 * links:.3f} ms = sent / {generation.links / 1e9:.0f} GB/s, "
        f"{links / (links + roofline):.2%} of links + roofline",
    }
    for name, text in lines.items():
        print(f"  {name:22s} {text}", flush=True)
    return {
        "topology": topology, "chips": program.chips, "batch": program.rows,
        "compile_seconds": program.seconds, "memory": program.memory(),
        "temporary_per_image": program.temporary / rows, "moved_per_image": program.moved / rows,
        "flops_per_image": program.flops / rows, "donated": program.donated,
        "collectives": kinds, "sent": program.sent(), "roofline_seconds": roofline,
        "link_seconds": links, "link_share": links / (links + roofline),
    }  # fmt: skip


def run(topology: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles for one slice and reports; where the compiler refuses, its reason."""
    name = topology.partition(":")[0]
    if name not in tpu_programs.GENERATIONS:
        raise InputError(f"--topology: {topology}: no published peaks are kept for {name}")
    generation = tpu_programs.GENERATIONS[name]
    mesh = tpu_programs.mesh_of(topology)
    configuration, model = CONFIGURATIONS[options.model], network(options)
    tx = configuration.optimizer(1000)
    shards = mesh.size
    settings = {
        "size": options.size,
        "key_impl": "rbg" if options.rbg else None,
        "microbatches": options.microbatches,
    }

    def compiles(rows_per_shard: int) -> Program:
        rows = rows_per_shard * shards
        return tpu_programs.compile_step(
            mesh, model, tx, configuration.loss(), rows=rows, **settings
        )

    rows = 16 * shards if options.batch is None else options.batch
    if rows % (shards * options.microbatches):
        raise InputError(f"--batch: {rows} is no even share for {shards} shards")
    try:
        program = compiles(rows // shards)
    except jax.errors.JaxRuntimeError as error:
        print(f"\n{topology}: batch {rows} does not compile:\n{str(error).strip()[:1500]}")
        return {"topology": topology, "batch": rows, "refused": str(error)}
    figures = report(topology, program, generation, "float32" if options.float32 else "bfloat16")
    if options.largest:
        fits, refused = tpu_programs.largest_batch(compiles, program, generation.memory)
        print(f"  {'largest batch a chip':22s} {fits} fits, {refused} does not")
        figures |= {"largest_that_fits": fits, "least_that_does_not": refused}
    return figures


def main() -> None:
    """Compiles for every slice named."""
    options = arguments()
    jax.config.update("jax_platforms", "cpu")
    figures = [run(topology, options) for topology in options.topology]
    if options.json:
        record.write(options.json, figures)


if __name__ == "__main__":
    command.run(main)
