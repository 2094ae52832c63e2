"""Image segmentation in pure JAX: a U-Net, losses, metrics, distances and a compiled train step."""

from jaxseg import augment, losses, metrics, models, parallel, surface, training
from jaxseg.models import UNet
from jaxseg.training import TrainState, make_eval_step, make_train_step

__all__ = [
    "TrainState",
    "UNet",
    "augment",
    "losses",
    "make_eval_step",
    "make_train_step",
    "metrics",
    "models",
    "parallel",
    "surface",
    "training",
]
