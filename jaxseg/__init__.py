"""Image segmentation in pure JAX: a U-Net, losses, metrics, surface distances and training."""

from importlib.metadata import version

from jaxseg import (
    augment,
    errors,
    export,
    inference,
    losses,
    metrics,
    models,
    parallel,
    pretrained,
    surface,
    training,
    types,
)
from jaxseg.models import UNet
from jaxseg.training import TrainState, evaluate, make_eval_step, make_train_step

__version__ = version("jaxseg")

__all__ = [
    "TrainState",
    "UNet",
    "augment",
    "errors",
    "evaluate",
    "export",
    "inference",
    "losses",
    "make_eval_step",
    "make_train_step",
    "metrics",
    "models",
    "parallel",
    "pretrained",
    "surface",
    "training",
    "types",
]
