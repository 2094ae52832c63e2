"""Changes of grey values: blur, contrast, brightness, gamma and noise. Films are floats."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from jaxseg.types import Array, Rows

Films = Float[Array, "B H W C"]
"""In [0, 1]."""


def blur(images: Films, sigma: Float[Array, "B"], *, largest: float) -> Float[jax.Array, "B H W C"]:
    """Gaussian blur, the film's rim continued outside it.

    SciPy's ``gaussian_filter(mode="nearest", radius=ceil(3 * largest))``.

    Args:
        images: Films.
        sigma: Standard deviation in pixels for each film; 0 changes nothing.
        largest: What no ``sigma`` exceeds; sets the cost.

    Returns:
        Films of the same dtype.
    """
    return _blur(jnp.asarray(images), jnp.asarray(sigma), math.ceil(3.0 * largest))


def adjust(
    images: Films,
    *,
    contrast: Float[Array, "B"],
    brightness: Float[Array, "B"],
    gamma: Float[Array, "B"] | None = None,
) -> Float[jax.Array, "B H W C"]:
    """``clip((x - 0.5) contrast + 0.5 + brightness, 0, 1) ** gamma``.

    Args:
        images: Films.
        contrast: Factors of the distance from mid-grey, 1 changes nothing.
        brightness: What is added, 0 changes nothing.
        gamma: Powers above 0; None for 1, which changes nothing.

    Returns:
        Films of the same dtype, in [0, 1].
    """
    gamma = None if gamma is None else jnp.asarray(gamma)
    return _adjust(jnp.asarray(images), jnp.asarray(contrast), jnp.asarray(brightness), gamma)


def add_noise(
    key: Key[jax.Array, ""], images: Films, sigma: Float[Array, "B"], *, rows: Rows | None = None
) -> Float[jax.Array, "B H W C"]:
    """Adds Gaussian noise and clips to [0, 1].

    The noise takes 65,536 values, each equally likely, up to 4.3 standard deviations: half the
    random bits and half the time of floats, and far finer than a film's 256 grey values.

    Args:
        key: A typed key.
        images: Films.
        sigma: Standard deviation for each film, of a range of 0 to 1.
        rows: ``[B]``, each film's index in the global batch; None counts from 0.

    Returns:
        Films of the same dtype, in [0, 1].
    """
    images = jnp.asarray(images)
    rows = jnp.arange(len(images)) if rows is None else jnp.asarray(rows)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return _add_noise(keys, images, jnp.asarray(sigma))


# One program each, for the reason given in `jaxseg.augment.affine`.
@partial(jax.jit, static_argnums=2)
def _blur(images: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    distance = jnp.arange(-radius, radius + 1, dtype=jnp.float32)[:, None]
    # Where sigma is 0 the middle weight alone is left, and is 1.
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma.astype(jnp.float32), 1e-3)[None]) ** 2)
    weights = (weights / weights.sum(0, keepdims=True))[:, :, None, None, None]
    films = images.astype(jnp.float32)
    height, width = films.shape[1:3]

    tall = jnp.pad(films, ((0, 0), (radius, radius), (0, 0), (0, 0)), mode="edge")
    films = weights[0] * tall[:, :height]
    for tap in range(1, 2 * radius + 1):
        films += weights[tap] * tall[:, tap : tap + height]
    wide = jnp.pad(films, ((0, 0), (0, 0), (radius, radius), (0, 0)), mode="edge")

    def add_tap(tap: jax.Array, films: jax.Array) -> jax.Array:
        return films + weights[tap] * jax.lax.dynamic_slice_in_dim(wide, tap, width, axis=2)

    # A loop, since XLA would fuse plain sums into a warp that follows, and work the whole blur out
    # again for each of the four pixels that an output pixel reads.
    films = jax.lax.fori_loop(0, 2 * radius + 1, add_tap, jnp.zeros_like(films))
    return films.astype(images.dtype)


@jax.jit
@jax.vmap
def _adjust(
    image: jax.Array, contrast: jax.Array, brightness: jax.Array, gamma: jax.Array | None
) -> jax.Array:
    film = jnp.clip((image.astype(jnp.float32) - 0.5) * contrast + (0.5 + brightness), 0.0, 1.0)
    if gamma is not None:
        # Black has no logarithm, and stays black.
        film = jnp.where(film > 0.0, jnp.exp(gamma * jnp.log(jnp.maximum(film, 1e-30))), 0.0)
    return film.astype(image.dtype)


@jax.jit
@jax.vmap
def _add_noise(key: jax.Array, image: jax.Array, sigma: jax.Array) -> jax.Array:
    # Two values from each random word; flat, since XLA compiles draws in more dimensions slowly.
    words = jax.random.bits(key, ((image.size + 1) // 2,), jnp.uint32)
    halves = jnp.concatenate([words >> 16, words & 0xFFFF])[: image.size]
    share = (halves.astype(jnp.float32) + 0.5) * 2.0**-15 - 1.0
    noise = jax.lax.erf_inv(share).reshape(image.shape) * math.sqrt(2.0)
    return jnp.clip(image.astype(jnp.float32) + sigma * noise, 0.0, 1.0).astype(image.dtype)
