"""What a run learnt, read back from its folder."""

from dataclasses import dataclass

import jax
import numpy as np

import jaxseg
from experiments.configuration import Configuration
from experiments.run_directory import RunDirectory
from jaxseg.checkpoint import Checkpoints
from jaxseg.errors import InputError
from jaxseg.training import TrainState


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's configuration, its network, and the state that the run chose."""

    configuration: Configuration
    model: jaxseg.UNet
    state: TrainState


def load(run: RunDirectory) -> Trained:
    """Reads the state that the run scored; of an unfinished run the best so far, or the latest.

    Raises:
        InputError: There is no run, or it has no checkpoint.
    """
    configuration = run.configuration()
    model = configuration.model()
    summary = run.read_summary()
    if not run.checkpoints.is_dir():
        raise InputError(f"{run.path}: holds no checkpoint yet")
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = summary["checkpoint_step"] if summary else checkpoints.best_step()
        step = checkpoints.latest_step() if step is None else step
        if step is None:
            raise InputError(f"{run.path}: holds no checkpoint yet")
        images = jax.ShapeDtypeStruct((1, configuration.size, configuration.size, 1), np.uint8)
        # The optimiser's state depends on the schedule's length in its values alone.
        like = TrainState.create(
            model,
            configuration.optimizer(1),
            configuration.key(),
            images,
            ema=configuration.ema_decay is not None,
        )
        state, _ = checkpoints.restore(like, step)
    return Trained(configuration, model, state)
