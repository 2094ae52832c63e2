"""Devices in one place: the mesh, what lies where, compiled forms of a step, many processes."""

from jaxseg.parallel.compiled import jit_many_steps, jit_rows, jit_step, pmap_step, unrolls
from jaxseg.parallel.mesh import (
    DATA,
    SPATIAL,
    make_mesh,
    over_batch,
    over_rows,
    place,
    replicate,
    replicated,
    rows_for,
    shard_batch,
    take_batch,
)
from jaxseg.parallel.processes import (
    Preemption,
    from_lead,
    initialize,
    is_lead,
    local_copy,
    to_host,
    together,
)

__all__ = [
    "DATA",
    "SPATIAL",
    "Preemption",
    "from_lead",
    "initialize",
    "is_lead",
    "jit_many_steps",
    "jit_rows",
    "jit_step",
    "local_copy",
    "make_mesh",
    "over_batch",
    "over_rows",
    "place",
    "pmap_step",
    "replicate",
    "replicated",
    "rows_for",
    "shard_batch",
    "take_batch",
    "to_host",
    "together",
    "unrolls",
]
