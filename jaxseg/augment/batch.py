"""Random augmentation of a batch: draws the amounts, then applies them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Key

from jaxseg.augment.affine import (
    affine_matrices,
    elastic_displacements,
    inside,
    source_coordinates,
    warp,
)
from jaxseg.augment.intensity import add_noise, adjust, blur
from jaxseg.augment.strengths import Strengths
from jaxseg.types import Batch, as_floats


class Amounts(NamedTuple):
    """The amounts of each image, ``[B]`` or ``[B, 2]``.

    See `affine_matrices`, `elastic_displacements`, `blur`, `adjust` and `add_noise`.
    """

    rotation: jax.Array
    scale: jax.Array
    shift: jax.Array
    shear: jax.Array
    elastic: jax.Array
    flip: jax.Array
    blur: jax.Array
    contrast: jax.Array
    brightness: jax.Array
    gamma: jax.Array
    noise: jax.Array


def draw(key: Key[jax.Array, ""], count: int, strengths: Strengths) -> Amounts:
    """Returns random amounts for ``count`` images."""
    uniform = iter(jax.random.uniform(key, (13, count), jnp.float32))
    changed = next(uniform) < strengths.probability

    def positive(limit: float) -> jax.Array:
        return jnp.where(changed, limit * next(uniform), 0.0)

    def symmetric(limit: float) -> jax.Array:
        return jnp.where(changed, limit * (2.0 * next(uniform) - 1.0), 0.0)

    def factor(limit: float) -> jax.Array:
        return jnp.exp(symmetric(math.log1p(limit)))

    def happens(probability: float) -> jax.Array:
        return changed & (next(uniform) < probability)

    return Amounts(
        rotation=symmetric(strengths.rotation),
        scale=factor(strengths.scale),
        shift=jnp.stack([symmetric(strengths.shift), symmetric(strengths.shift)], -1),
        shear=symmetric(strengths.shear),
        elastic=jnp.where(changed, strengths.elastic, 0.0),
        flip=jnp.stack([happens(strengths.flip_up_down), happens(strengths.flip_left_right)], -1),
        blur=positive(strengths.blur),
        contrast=factor(strengths.contrast),
        brightness=symmetric(strengths.brightness),
        gamma=factor(strengths.gamma),
        noise=positive(strengths.noise),
    )


def make_augment(strengths: Strengths) -> Callable[[Key[jax.Array, ""], Batch], Batch]:
    """Returns a function ``augment(key, batch) -> batch`` for `jaxseg.make_train_step`.

    The changes are, in this order: blur, one transform (flip, scale, shear, rotation, shift,
    elastic deformation), contrast and brightness, gamma, noise. Pixels from outside an image are
    black, of class 0 and invalid (False or 0 in ``where``).

    Under jit, a key gives the same amounts and noise whether or not the batch is sharded. Under
    pmap, give each device its own key. Images that are on a device stay there.

    Args:
        strengths: Ranges of the changes. If nothing can change, ``augment`` returns the batch
            itself.

    Returns:
        ``augment``. ``images``, uint8 or float in [0, 1], become float32 in [0, 1] or keep their
        floating dtype. ``labels`` and ``where`` are as in `jaxseg.augment.warp` and keep their
        dtype; a bool ``where`` is added if pixels can move. Other entries pass through. It raises
        ValueError for images and labels that `jaxseg.augment.warp` refuses.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from jaxseg import augment
        >>> change = augment.make_augment(augment.Strengths(rotation=10.0, noise=0.02))
        >>> images, masks = np.full((2, 16, 16, 1), 128, np.uint8), np.zeros((2, 16, 16), np.int32)
        >>> batch = change(jax.random.key(0), {"images": images, "labels": masks})
        >>> sorted(batch), batch["images"].dtype.name
        (['images', 'labels', 'where'], 'float32')
    """

    @jax.jit
    def change(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        images, changed = as_floats(batch["images"]), {}
        amounts_key, noise_key = jax.random.split(key)
        amounts = draw(amounts_key, images.shape[0], strengths)
        if strengths.blur:
            images = blur(images, amounts.blur, largest=strengths.blur)
        mask = None
        if strengths.moves:
            height, width = images.shape[1:3]
            matrices = affine_matrices(
                (height, width),
                rotation=amounts.rotation,
                scale=amounts.scale,
                shift=amounts.shift,
                shear=amounts.shear,
                flip=amounts.flip,
            )
            displacements = None
            if strengths.elastic:
                # A key that `split` does not give, so that all other random numbers stay the same.
                elastic_key = jax.random.fold_in(key, 2)
                displacements = elastic_displacements(elastic_key, amounts.elastic)
            read_from = source_coordinates(matrices, (height, width), displacements=displacements)
            mask = inside(read_from, (height, width))
            images, changed["labels"], changed["where"] = warp(
                images,
                batch["labels"],
                matrices,
                where=batch.get("where"),
                displacements=displacements,
                max_stretch=strengths.max_stretch,
            )
        if strengths.contrast or strengths.brightness or strengths.gamma:
            images = adjust(
                images,
                contrast=amounts.contrast,
                brightness=amounts.brightness,
                gamma=amounts.gamma if strengths.gamma else None,
            )
        if strengths.noise:
            images = add_noise(noise_key, images, amounts.noise)
        if mask is not None:
            images = jnp.where(mask[..., None], images, jnp.zeros_like(images))
        return {**changed, "images": images}

    def augment(key: Key[jax.Array, ""], batch: Batch) -> Batch:
        if not strengths.changes:
            return batch
        arrays = {name: batch[name] for name in ("images", "labels", "where") if name in batch}
        return {**batch, **change(key, arrays)}

    return augment
