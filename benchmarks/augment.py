"""Images a second of augmentation, with pixels read by index or in the tile form for TPUs.

    python -m benchmarks.augment [--images 32] [--size 256]

The affine warp alone, and all changes of `jaxseg.augment.ROBUST`, of a batch on the device.
"""

from typing import Any
from unittest import mock

import numpy as np

from benchmarks import protocol
from benchmarks.protocol import Implementation

IMPLEMENTATIONS = (
    Implementation("jaxseg", "benchmarks.augment:prepare"),
    Implementation("jaxseg, tiles", "benchmarks.augment:prepare", {"tiles": True}),
)
MOVES = ("rotation", "scale", "shift", "shear")
COLUMNS = ("case", "name", "images_per_second", "relative_time", "device")


def prepare(*, images: int, size: int, tiles: bool = False) -> Any:
    """One compiled program for the batch."""
    import jax

    from jaxseg import augment
    from jaxseg.data import phantom

    samples = [
        phantom.generate(0, "Normal", i, image_size=size, mask_size=size) for i in range(images)
    ]
    batch = {
        "images": np.stack([sample.image[..., None] for sample in samples]),
        "labels": np.stack([(sample.mask > 127).astype(np.uint8) for sample in samples]),
    }
    batch, key = jax.device_put(batch), jax.random.key(0)
    warp = augment.Strengths(**{name: getattr(augment.ROBUST, name) for name in MOVES})

    def as_on_tpus(*arguments: Any, tpu: Any, default: Any) -> Any:
        return (tpu if tiles else default)(*arguments)

    cases = {}
    with mock.patch.object(jax.lax, "platform_dependent", as_on_tpus):
        for name, strengths in (("affine warp", warp), ("all changes", augment.ROBUST)):
            program = jax.jit(augment.make_augment(strengths)).lower(key, batch).compile()
            cases[name] = lambda program=program: jax.block_until_ready(program(key, batch))
    return cases, {"device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    protocol.main("augment", __doc__, IMPLEMENTATIONS, COLUMNS, count="images", images=32, size=256)
