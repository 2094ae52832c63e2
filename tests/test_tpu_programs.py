"""Train steps compiled for TPU slices that are only described."""

import importlib.util

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks import tpu_programs
from benchmarks.tpu_programs import Collective
from jaxseg import UNet, losses, parallel
from jaxseg.errors import InputError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)

TEXT = """\
HloModule jit_step, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias) }
  %all-reduce.1 = (f32[3,3]{1,0:T(4,128)}, bf16[8]{0}) all-reduce(f32[3,3] %a, bf16[8] %b), \
channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %ag = (f32[4]{0}, f32[32]{0}) all-gather-start(f32[4] %c), replica_groups={{0,1,2,3,4,5,6,7}}
  %agd = f32[32]{0} all-gather-done((f32[4], f32[32]) %ag)
  %ar = f32[2]{0} all-reduce(f32[2] %e), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}
  %cp = pred[16]{0} collective-permute(pred[16] %d), source_target_pairs={{0,1},{1,0}}
  %fusion = f32[8]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_collectives_are_read_out_of_a_programs_text():
    assert tpu_programs.collectives(TEXT, chips=8) == (
        Collective("all-reduce", 3 * 3 * 4 + 8 * 2, 4),
        Collective("all-gather", 32 * 4, 8),
        Collective("all-reduce", 8, 2),
        Collective("collective-permute", 16, 8),
    )


def test_a_ring_sends_what_the_textbook_says():
    sent = {kind: Collective(kind, 800, 8).sent() for kind in ("all-reduce", "all-gather")}
    assert sent == {"all-reduce": 2 * 7 * 100, "all-gather": 7 * 100}
    # Of a reduce-scatter the result is an eighth of what goes round.
    assert Collective("reduce-scatter", 100, 8).sent() == 7 * 100


@needs_libtpu
def test_a_slice_that_there_is_not_is_named():
    with pytest.raises(InputError, match="v5e:3x5"):
        tpu_programs.describe("v5e:3x5")


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_the_devices_of_a_slice_are_ordered_by_process(topology, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: tpu_programs.describe(topology))
    owners = [device.process_index for device in parallel.make_mesh().devices]
    assert owners == sorted(owners)
    assert len(set(owners)) > 1


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_step_on_eight_chips_sends_its_gradients_once_and_nothing_else(dtype):
    model = UNet(widths=(8, 16), dropout=0.25, dtype=dtype)
    program = tpu_programs.compile_step(
        tpu_programs.mesh_of("v5e:2x4"),
        model,
        optax.adam(1e-3),
        losses.cross_entropy,
        rows=16,
        size=64,
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    # The gradient of an upsampling kernel is summed as that of its 2x2 form: 16 taps for 9.
    taps = 7 * shapes["params"]["up_0"]["kernel"].size // 9
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # Gradients are summed in the dtype of the computation; the loss is one value more.
    expected = jnp.dtype(dtype).itemsize * (parameters + taps) + 4
    kinds = tpu_programs.by_kind(program.collectives)
    assert set(kinds) == {"all-reduce"}
    count, size = kinds["all-reduce"]
    assert count <= 2
    assert size == pytest.approx(expected, rel=0.01)
    assert program.donated == 1.0
