"""Opening a run: its directory, its images and its batch size."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import jax
from jax.sharding import Mesh

from experiments import command
from experiments.configuration import Configuration
from experiments.films import Films, load
from experiments.run_directory import RunDirectory
from jaxseg import parallel
from jaxseg.errors import InputError
from jaxseg.training import nearest_sizes


def open_run(configuration: Configuration, run: RunDirectory, *, resume: bool) -> Films:
    """Creates the run directory, or checks that it can be resumed, and loads the images.

    Process 0 prepares the data before the others load it from the disk that they share.

    Raises:
        InputError: The directory or the data is invalid.
    """
    goes_on, films = False, None
    with parallel.all_or_none("opening the run"):
        if jax.process_index() == 0:
            goes_on = run.check_usable(configuration, resume=resume)
            if not goes_on and (doubt := configuration.check_new()):
                command.say(f"warning: {doubt}")
            films = load(configuration)
            if goes_on:
                run.check_same_films(films.fingerprint)
            else:
                run.start(configuration, films.fingerprint)
    with parallel.all_or_none("opening the run"):
        if films is None:
            films = load(configuration)
            run.check_is_shared(films.fingerprint)
    return films


@contextmanager
def alone_in(run: RunDirectory) -> Iterator[None]:
    """Locks the run directory while the block lasts.

    Raises:
        InputError: Another job has locked it.
    """
    with parallel.all_or_none("opening the run"):
        held = run.hold() if jax.process_index() == 0 else nullcontext()
    with held:
        try:
            yield
        finally:
            if jax.process_index() == 0:
                run.remove_if_unused()


def check_batch_size(configuration: Configuration, images: int, mesh: Mesh) -> int:
    """Returns the batch size, which is smaller than configured if there are too few images.

    Raises:
        InputError: The devices and microbatches do not divide the batch size.
    """
    wanted, devices = configuration.batch_size, mesh.size
    divisor = devices * (configuration.microbatches or 1)
    if wanted % divisor:
        parts = f"{devices} devices" if devices > 1 else ""
        if configuration.microbatches:
            parts += f"{' and ' if parts else ''}{configuration.microbatches} microbatches"
        raise InputError(f"--batch-size: {parts} do not divide {nearest_sizes(wanted, divisor)}")
    size = min(wanted, images // divisor * divisor)
    if size == 0:
        raise InputError(f"--batch-size: {images} training images are fewer than {divisor}")
    if size < wanted:
        command.say(f"--batch-size: {size} instead of {wanted}, for {images} training images")
    return size
