"""Array types shared by every module.

Shapes are written in jaxtyping: ``B`` images, ``H`` rows, ``W`` columns, ``C`` input channels,
``K`` logit channels. ``*spatial`` is any number of spatial axes, ``H W`` for images. The layout
is NHWC.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer, Num

Array = jax.Array | np.ndarray

Images = Num[Array, "B H W C"]
"""uint8 in 0..255 or float in [0, 1]."""

Labels = Integer[Array, "B *spatial"]
"""Integer class ids; binary: 0 and 1."""

Logits = Float[Array, "B *spatial K"]
"""Unnormalized scores. ``K == 1`` is binary (sigmoid), ``K > 1`` has one class per channel."""

Where = Bool[Array, "B *spatial"] | Float[Array, "B *spatial"]
"""Which pixels are valid: bool, or (losses only) a float weight >= 0 per pixel."""

Valid = Bool[Array, "B"]
"""False on padding rows of an evaluation batch."""

PerImage = Float[Array, "B"]
"""One float32 per image."""

Batch = Mapping[str, Array]
"""``images``, ``labels``, optional ``where``; in evaluation also ``valid``."""


def narrowed(labels: Array) -> Array:
    """Returns 64-bit NumPy ids as int32, clipped to its range.

    JAX would drop the upper bits, and an id that is no class could become one.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return labels
    if labels.dtype.itemsize < 8:
        return labels
    least = 0 if labels.dtype.kind == "u" else -1
    return np.clip(labels, least, 2**31 - 1).astype(np.int32)


def as_floats(images: Images) -> Float[jax.Array, "B H W C"]:
    """Returns uint8 images as float32 in [0, 1], and float images unchanged.

    Raises:
        ValueError: Images have any other dtype.
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images has dtype {images.dtype}; it must be uint8 or float in [0, 1]")
    return images
