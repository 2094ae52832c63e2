"""Opening a run: its folder, its films, and whether they can be shared out over the devices."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from jax.sharding import Mesh

from experiments import command
from experiments.configuration import Configuration
from experiments.films import Films, load
from experiments.run_directory import RunDirectory
from jaxseg import parallel
from jaxseg.types import InputError


def open_run(configuration: Configuration, run: RunDirectory, *, resume: bool) -> Films:
    """Starts the run's folder or finds it fit to go on, and loads its films.

    The first process goes ahead of the others, so that on a shared disk they find all prepared.

    Raises:
        InputError: The folder or the data will not do.
    """
    goes_on, films = False, None
    with parallel.together("opening the run"):
        if parallel.is_lead():
            goes_on = run.check_usable(configuration, resume=resume)
            if not goes_on and (doubt := configuration.check_new()):
                command.say(f"warning: {doubt}")
            films = load(configuration)
            if goes_on:
                run.check_same_films(films.fingerprint)
            else:
                run.start(configuration, films.fingerprint)
    with parallel.together("opening the run"):
        if films is None:
            films = load(configuration)
            run.check_is_shared(films.fingerprint)
    return films


@contextmanager
def alone_in(run: RunDirectory) -> Iterator[None]:
    """Keeps other jobs out of the run's folder while the block lasts.

    Raises:
        InputError: There is one in it.
    """
    with parallel.together("opening the run"):
        held = run.hold() if parallel.is_lead() else nullcontext()
    with held:
        yield


def check_rows(configuration: Configuration, mesh: Mesh) -> int:
    """Rows of a step's batch, padding included; a line says so where devices would idle.

    Raises:
        InputError: The films' height cannot be shared out.
    """
    shards = mesh.shape[parallel.SPATIAL]
    # Below the coarsest level a shard would have no rows of its own.
    least = shards * 2 ** (len(configuration.widths) - 1)
    if shards > 1 and configuration.size % least:
        raise InputError(
            f"--spatial-shards: {shards} shards of a {len(configuration.widths)}-level network "
            f"need a --size that is a multiple of {least}, not {configuration.size}"
        )
    if configuration.size_of_labels() % shards:
        raise InputError(
            f"--label-size: {configuration.size_of_labels()} is no multiple of {shards} shards"
        )
    batch_size, parts = configuration.batch_size, configuration.microbatches
    rows = parallel.rows_for(batch_size, mesh, microbatches=parts)
    if rows > batch_size:
        command.say(
            f"--batch-size: {batch_size} films on {mesh.shape[parallel.DATA]} devices"
            + (f" in {parts} parts" if parts > 1 else "")
            + f": {rows - batch_size} of {rows} rows of every step are padding"
        )
    return rows
