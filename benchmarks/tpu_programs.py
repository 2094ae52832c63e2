"""Train steps compiled for TPU slices that are only described, and what their programs hold.

No TPU and no network is needed, only libtpu (``pip install -e '.[tpu]'``). A program that
compiles proves that it compiles, what memory it takes and what it sends; not numbers, not speed.
"""

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import mesh_utils, topologies
from jax.sharding import Mesh

from jaxseg import UNet, parallel
from jaxseg.errors import InputError
from jaxseg.training import Loss, TrainState, make_train_step


@dataclass(frozen=True)
class Generation:
    """Chips of one kind, from the TPU system architecture pages of Google Cloud."""

    device_kind: str
    """What JAX calls them; `roofline.CHIPS` has their peaks."""
    memory: float
    """Bytes a chip."""
    links: float
    """Bytes a second out of a chip over all its links: half of the bidirectional rate."""


GENERATIONS = {
    "v5e": Generation("TPU v5 lite", memory=16e9, links=200e9),
    "v6e": Generation("TPU v6 lite", memory=32e9, links=400e9),
    "v5p": Generation("TPU v5", memory=95e9, links=600e9),
}
"""By what stands before the colon in a topology's name."""


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program."""

    kind: str
    size: int
    """Bytes of its result on a chip."""
    group: int
    """Chips that take part."""

    def sent(self) -> float:
        """Bytes that a chip sends, where the operation runs as a ring.

        An all-reduce passes every part of the array round twice, less its own; a gather, a scatter
        and an all-to-all once; a permutation sends the array.
        """
        others = (self.group - 1) / self.group
        rounds = {
            "all-reduce": 2 * others,
            "all-gather": others,
            "reduce-scatter": self.group - 1,
            "all-to-all": others,
        }
        return rounds.get(self.kind, 1.0) * self.size


@dataclass(frozen=True)
class Program:
    """What the compiler says of a step."""

    rows: int
    """Rows of the global batch."""
    chips: int
    seconds: float
    """To compile."""
    arguments: int
    """Bytes a chip, state and batch."""
    temporary: int
    """Bytes a chip, besides arguments."""
    donated: float
    """Share of the state's arrays that the step writes where it read them."""
    flops: float
    """A chip and step."""
    moved: float
    """Bytes to and from memory, a chip and step."""
    collectives: tuple[Collective, ...]

    def rows_per_chip(self) -> float:
        """Rows of the batch for each chip."""
        return self.rows / self.chips

    def memory(self) -> int:
        """Bytes that a chip needs."""
        return self.arguments + self.temporary

    def sent(self) -> float:
        """Bytes that a chip sends to others in a step."""
        return sum(collective.sent() for collective in self.collectives)


def describe(topology: str) -> list[Any]:
    """The devices of a slice, neighbours side by side.

    Args:
        topology: A generation and a shape, such as ``v5e:2x4``.

    Raises:
        InputError: libtpu is not installed or knows no such slice.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"--topology: {topology}: {reason[0] if reason else error!r}") from None
    devices = described.devices
    return list(mesh_utils.create_device_mesh((len(devices),), devices).flat)


def mesh_of(topology: str) -> Mesh:
    """Returns a mesh of a described slice."""
    return parallel.make_mesh(describe(topology))


def compile_step(
    mesh: Mesh,
    model: UNet,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    rows: int,
    size: int,
    key_impl: str | None = None,
    microbatches: int = 1,
) -> Program:
    """Compiles a train step for the mesh's devices.

    Args:
        mesh: Devices, described or real.
        model: The network.
        tx: The optimiser.
        loss: The loss.
        rows: Rows of the global batch, uint8 films of one channel.
        size: Their side in pixels.
        key_impl: Generator of random bits; JAX's default unless given.
        microbatches: Parts of a batch.

    Raises:
        jax.errors.JaxRuntimeError: The compiler refuses, for want of memory for example.
    """
    images = jax.ShapeDtypeStruct((rows, size, size, 1), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0, impl=key_impl))
    state = jax.eval_shape(lambda key: TrainState.create(model, tx, key, images), key)
    state = jax.tree.map(lambda leaf: _laid_out(leaf, parallel.replicated(mesh)), state)
    labels = jax.ShapeDtypeStruct((rows, size, size), jnp.uint8)
    batch = {
        name: _laid_out(array, parallel.sharded(mesh))
        for name, array in {"images": images, "labels": labels}.items()
    }
    step = make_train_step(model, tx, loss, microbatches=microbatches)
    lowered = parallel.jit_step(step, mesh).lower(state, batch)
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    return Program(
        rows=rows,
        chips=mesh.devices.size,
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        donated=len(_ALIAS.findall(text.splitlines()[0])) / len(jax.tree.leaves(state)),
        flops=cost["flops"],
        moved=cost["bytes accessed"],
        collectives=collectives(text, chips=mesh.devices.size),
    )


def largest_batch(
    compiles: Any, first: Program, memory: float, *, tries: int = 6
) -> tuple[int, int]:
    """Brackets the largest number of rows per chip that the compiler finds memory for.

    Args:
        compiles: ``compiles(rows per chip) -> Program``; fails with ``jax.errors.JaxRuntimeError``.
        first: A program that fits.
        memory: Bytes of a chip, which give the first guess.
        tries: How often to compile at most.

    Returns:
        Rows per chip that fit, and the least number tried that does not (0 where all fitted).
    """
    fits, refused = int(first.rows_per_chip()), 0
    guess = int(fits * 0.95 * (memory - first.arguments) / first.temporary)
    for _ in range(tries):
        try:
            compiles(guess)
            fits = guess
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error):
                raise
            refused = guess
        guess = (fits + refused) // 2 if refused else math.ceil(fits * 1.15)
        if refused and refused - fits <= max(1, fits // 16):
            break
    return fits, refused


def out_of_memory(error: Exception) -> bool:
    """Whether the compiler's reason is a want of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error)


_OPERATION = re.compile(
    r"= (?P<result>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all"
    r"|collective-permute)(?P<start>-start)?\("
)
_ALIAS = re.compile(r"\{\}, (?:may|must)-alias\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d\w+)?)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[(?P<mesh>[^\]]*)\] \{(?P<axes>[^}]*)\}")


def collectives(text: str, *, chips: int) -> tuple[Collective, ...]:
    """Reads the collectives out of a compiled program's text.

    Args:
        text: As `jax.stages.Compiled.as_text` gives it.
        chips: How many take part where an operation does not say.
    """
    found = []
    for line in text.splitlines():
        if (operation := _OPERATION.search(line)) is None:
            continue
        kind = operation["kind"]
        sizes = [_bytes(*array.groups()) for array in _ARRAY.finditer(operation["result"])]
        if operation["start"] and kind in ("all-gather", "collective-permute"):
            # A pair of operand and result, and what the runtime needs; the larger is the result.
            sizes = [max(sizes)]
        group = chips
        if listed := _LISTED.search(line):
            group = listed[1].count(",") + 1
        elif counted := _COUNTED.search(line):
            group = int(counted[1])
        elif named := _NAMED.search(line):
            sizes_of = dict(axis.split("=") for axis in named["mesh"].split(","))
            group = math.prod(int(sizes_of[axis]) for axis in named["axes"].split(","))
        found.append(Collective(kind, sum(sizes), group))
    return tuple(found)


def by_kind(found: tuple[Collective, ...]) -> Mapping[str, tuple[int, int]]:
    """Number and bytes of the collectives of each kind."""
    kinds: dict[str, tuple[int, int]] = {}
    for collective in found:
        count, size = kinds.get(collective.kind, (0, 0))
        kinds[collective.kind] = (count + 1, size + collective.size)
    return kinds


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"^[a-z]+", "", dtype).split("e")[0])
    return math.prod(int(side) for side in shape.split(",") if side) * bits // 8


def _laid_out(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
