"""The array types that every module speaks, and the error for input that a person can mend.

Layout is NHWC throughout. Shapes are written in jaxtyping: ``B`` films, ``H`` rows, ``W`` columns,
``C`` input channels, ``K`` logit channels (``K == 1`` is binary, ``K > 1`` one class per channel).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Num

Array = jax.Array | np.ndarray

Images = Num[Array, "B H W C"]
"""uint8 in 0..255 or float in [0, 1]."""

Labels = Integer[Array, "B H W"]
"""Integer class ids; binary: 0 and 1."""

Logits = Float[Array, "B H W K"]
"""Unnormalised scores, never probabilities."""

Where = Bool[Array, "B H W"]
"""True on the pixels that count."""

Valid = Bool[Array, "B"]
"""False on the rows that only pad a batch."""

Rows = Int[Array, "B"]
"""Each row's index in the global batch; random draws are made from it."""

PerImage = Float[Array, "B"]
"""One float32 per image."""

Batch = Mapping[str, Array]
"""``images``, ``labels``, optional ``where`` and ``valid``. Labels and ``where`` may be on a finer
grid than the images: the steps resize logits to it."""


def narrowed(labels: Array) -> Array:
    """NumPy ids of 64 bits as int32, the nearest that it holds.

    JAX would cut their upper bits off, and an id that is no class could become one.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return labels
    if labels.dtype.itemsize < 8:
        return labels
    least = 0 if labels.dtype.kind == "u" else -1
    return np.clip(labels, least, 2**31 - 1).astype(np.int32)


def as_floats(images: Images) -> Float[jax.Array, "B H W C"]:
    """uint8 as float32 in [0, 1]; floats as they are.

    Raises:
        ValueError: Images are of any other dtype.
    """
    films = jnp.asarray(images)
    if films.dtype == jnp.uint8:
        return films.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(films.dtype, jnp.floating):
        raise ValueError(f"images has dtype {films.dtype}; it must be uint8 or float in [0, 1]")
    return films


class InputError(ValueError):
    """Something a person gave (a file, a folder, an option) cannot be used; one line says what."""
