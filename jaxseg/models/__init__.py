"""Networks: Linen modules with ``__call__(images, *, train)`` that return logits."""

from jaxseg.models.dropout import Dropout
from jaxseg.models.layers import UpConv
from jaxseg.models.unet import UNet

__all__ = ["Dropout", "UNet", "UpConv"]
