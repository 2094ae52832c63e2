"""What lies where on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import parallel


@pytest.mark.parametrize(
    ("rows", "devices", "expected"), [(16, 1, 16), (5, 8, 8), (17, 8, 24), (8, 8, 8)]
)
def test_rows_are_rounded_up_to_an_even_share(rows, devices, expected):
    assert parallel.rows_for(rows, parallel.make_mesh(jax.devices()[:devices])) == expected


def test_a_batch_is_shared_out_by_rows_and_padded_with_invalid_ones():
    mesh = parallel.make_mesh()
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    batch = parallel.shard_batch({"images": images}, mesh)
    assert [shard.data.shape[0] for shard in batch["images"].addressable_shards] == [1] * 8
    np.testing.assert_array_equal(np.asarray(batch["images"])[:6], images)
    np.testing.assert_array_equal(batch["valid"], [True] * 6 + [False] * 2)


def test_replicated_arrays_are_whole_on_every_device():
    values = np.arange(5.0, dtype=np.float32)
    array = parallel.replicate({"a": jnp.asarray(values)}, parallel.make_mesh())["a"]
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, values)


def test_jit_rows_treats_rows_alike_on_every_device():
    mesh = parallel.make_mesh()
    doubled = parallel.jit_rows(lambda scale, rows: scale * rows, mesh)
    rows = np.arange(16.0, dtype=np.float32)
    result = doubled(np.float32(2), rows)
    np.testing.assert_array_equal(result, 2 * rows)
    assert len({shard.device for shard in result.addressable_shards}) == 8
