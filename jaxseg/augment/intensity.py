"""Blur, contrast, brightness, gamma and noise, with one amount per image.

Images are floats in [0, 1]. All functions compute in float32 and return the dtype of the images.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from jaxseg.types import Array, PerImage

FloatImages = Float[Array, "B H W C"]
"""Images in [0, 1]."""


@partial(jax.jit, static_argnames="largest")
def blur(images: FloatImages, sigma: PerImage, *, largest: float) -> Float[jax.Array, "B H W C"]:
    """Returns images after a Gaussian blur that repeats the edge pixels.

    Equal to SciPy's ``gaussian_filter(mode="nearest", radius=ceil(3 * largest))``.

    Args:
        images: Images in [0, 1].
        sigma: Standard deviations in pixels; 0 leaves an image unchanged.
        largest: Upper bound on ``sigma``; sets the kernel size.
    """
    radius = math.ceil(3.0 * largest)
    distance = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    sigma = jnp.maximum(sigma.astype(jnp.float32), 1e-3)
    weights = jnp.exp(-0.5 * (distance[:, None] / sigma[None]) ** 2)
    weights = (weights / weights.sum(0, keepdims=True))[:, :, None, None, None]

    def along(axis: int, images: jax.Array) -> jax.Array:
        size = images.shape[axis]
        padding = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(images, padding, mode="edge")

        def add_tap(tap: jax.Array, total: jax.Array) -> jax.Array:
            return total + weights[tap] * jax.lax.dynamic_slice_in_dim(padded, tap, size, axis)

        # A loop, because XLA would fuse a plain sum into a warp that follows and compute the blur
        # again for each of the four pixels that a bilinear output pixel reads.
        return jax.lax.fori_loop(0, 2 * radius + 1, add_tap, jnp.zeros_like(images))

    return along(2, along(1, jnp.asarray(images, jnp.float32))).astype(images.dtype)


@jax.jit
def adjust(
    images: FloatImages,
    *,
    contrast: PerImage,
    brightness: PerImage,
    gamma: PerImage | None = None,
) -> Float[jax.Array, "B H W C"]:
    """Returns ``clip((x - 0.5) * contrast + 0.5 + brightness, 0, 1) ** gamma``.

    Args:
        images: Images in [0, 1].
        contrast: Factors of the distance from mid-gray; 1 leaves an image unchanged.
        brightness: Values to add; 0 leaves an image unchanged.
        gamma: Exponents above 0; None means 1 and saves the power.
    """
    contrast, brightness = _per_image(contrast), _per_image(brightness)
    adjusted = (images.astype(jnp.float32) - 0.5) * contrast + 0.5 + brightness
    adjusted = jnp.clip(adjusted, 0.0, 1.0)
    if gamma is not None:
        adjusted = adjusted ** _per_image(gamma)
    return adjusted.astype(images.dtype)


@jax.jit
def add_noise(
    key: Key[jax.Array, ""], images: FloatImages, sigma: PerImage
) -> Float[jax.Array, "B H W C"]:
    """Returns images plus Gaussian noise, clipped to [0, 1].

    Args:
        key: A typed key, as from `jax.random.key`.
        images: Images in [0, 1].
        sigma: Standard deviations of the noise; 0 leaves an image unchanged.
    """
    noise = _per_image(sigma) * jax.random.normal(key, images.shape, jnp.float32)
    return jnp.clip(images.astype(jnp.float32) + noise, 0.0, 1.0).astype(images.dtype)


def _per_image(amounts: PerImage) -> Float[jax.Array, "B 1 1 1"]:
    return jnp.asarray(amounts, jnp.float32)[:, None, None, None]
