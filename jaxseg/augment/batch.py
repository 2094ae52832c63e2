"""The changes of a whole batch, drawn film by film."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Key

from jaxseg.augment.affine import affine_matrices, move
from jaxseg.augment.intensity import add_noise, adjust, blur
from jaxseg.augment.strengths import Strengths
from jaxseg.types import Batch, Rows, as_floats


class Amounts(NamedTuple):
    """What each film drew, ``[B]`` or ``[B, 2]``; see `affine_matrices`, `blur`, `adjust`."""

    rotation: jax.Array
    scale: jax.Array
    shift: jax.Array
    shear: jax.Array
    flip: jax.Array
    blur: jax.Array
    contrast: jax.Array
    brightness: jax.Array
    gamma: jax.Array
    noise: jax.Array


def draw(key: Key[jax.Array, ""], rows: Rows, strengths: Strengths) -> Amounts:
    """Draws each film's amounts from the key and the film's index in the global batch alone.

    A kind's amounts do not depend on the other kinds' strengths.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows))
    shares = jax.vmap(lambda key: jax.random.uniform(key, (13,), jnp.float32))(keys)
    changed = shares[:, 12:] < strengths.share
    either_way = jnp.where(changed, 2.0 * shares - 1.0, 0.0)

    def factor(share: jax.Array, most: float) -> jax.Array:
        return jnp.exp(share * jnp.log1p(jnp.float32(most)))

    upwards = jnp.where(changed, shares, 0.0)
    flips = jnp.array([strengths.flip_up_down, strengths.flip_left_right], jnp.float32)
    return Amounts(
        rotation=either_way[:, 0] * strengths.rotation,
        scale=factor(either_way[:, 1], strengths.scale),
        shift=either_way[:, 2:4] * strengths.shift,
        shear=either_way[:, 4] * strengths.shear,
        flip=(shares[:, 5:7] < flips[None]) & changed,
        blur=upwards[:, 7] * strengths.blur,
        contrast=factor(either_way[:, 8], strengths.contrast),
        brightness=either_way[:, 9] * strengths.brightness,
        gamma=factor(either_way[:, 10], strengths.gamma),
        noise=upwards[:, 11] * strengths.noise,
    )


def make_augment(strengths: Strengths) -> Callable[..., Batch]:
    """Makes the function that changes a batch at random, for `jaxseg.make_train_step`.

    In this order: blur, warp (flip, scale, shear, rotation, shift as one map), contrast and
    brightness, gamma, noise. Pixels from outside a film are black, of class 0 and False in
    ``where``, whatever happens to grey values. Labels and ``where`` may be on a finer grid than
    films, as `jaxseg.make_train_step` takes them.

    On CPU and GPU most of the cost is reading four film pixels and a label for each pixel, and
    drawing noise; a TPU, which reads single pixels slowly, reads small tiles by matrix products,
    with the same result but for the last place. Films that lie on a device stay there.

    Args:
        strengths: How far films may be changed. A kind of strength 0 costs nothing; all 0 gives
            batches back as they are.

    Returns:
        ``augment(key, batch, rows=None) -> batch``. ``images``, uint8 or float in [0, 1], become
        float32 in [0, 1], or keep their floating dtype, so that a network must take floats also
        where films come as bytes; any other dtype, or labels as `warp` refuses them, is a
        ValueError. ``labels`` (below 2**24) keep theirs; ``where`` is there whenever pixels move,
        and False wherever it was or where the film had no pixel; all else passes through. ``rows``
        ``[B]`` are each row's index in the global batch, None for counting from 0: amounts and
        noise depend on the key and that index alone, so that no way to cut up or pad a batch
        changes a bit (shards of a film's height may round its grey values otherwise in the last
        place). Rows that only pad the batch are changed like any other.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from jaxseg import augment
        >>> change = augment.make_augment(augment.Strengths(rotation=10.0, noise=0.02))
        >>> films, masks = np.full((2, 16, 16, 1), 128, np.uint8), np.zeros((2, 16, 16), np.int32)
        >>> batch = change(jax.random.key(0), {"images": films, "labels": masks})
        >>> sorted(batch), batch["images"].dtype.name
        (['images', 'labels', 'where'], 'float32')
    """

    @jax.jit
    def change(key: jax.Array, batch: Batch, rows: jax.Array) -> Batch:
        amounts = draw(jax.random.fold_in(key, 0), rows, strengths)
        images = as_floats(batch["images"])
        changed = {}
        if strengths.blur:
            images = blur(images, amounts.blur, largest=strengths.blur)
        inside = None
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
            images, changed["labels"], inside, changed["where"] = move(
                images,
                jnp.asarray(batch["labels"]),
                batch.get("where"),
                matrices,
                stretch=strengths.stretch,
            )
        if strengths.contrast or strengths.brightness or strengths.gamma:
            images = adjust(
                images,
                contrast=amounts.contrast,
                brightness=amounts.brightness,
                gamma=amounts.gamma if strengths.gamma else None,
            )
        if strengths.noise:
            images = add_noise(jax.random.fold_in(key, 1), images, amounts.noise, rows=rows)
        if inside is not None:
            images = jnp.where(inside[..., None], images, jnp.zeros_like(images))
        return {**changed, "images": images}

    def augment(key: Key[jax.Array, ""], batch: Batch, rows: Rows | None = None) -> Batch:
        if not strengths.changes:
            return batch
        rows = jnp.arange(batch["images"].shape[0]) if rows is None else jnp.asarray(rows)
        pixels = {name: batch[name] for name in ("images", "labels", "where") if name in batch}
        return {**batch, **change(key, pixels, rows)}

    return augment
