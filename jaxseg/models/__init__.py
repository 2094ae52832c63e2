"""Networks: Linen modules with ``__call__(images, *, train=False)`` that return logits."""

from jaxseg.models.layers import UpConv
from jaxseg.models.unet import UNet

__all__ = ["UNet", "UpConv"]
