"""Train steps compiled for TPU slices that are only described."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import report, tpu_programs
from jaxseg import UNet, parallel
from jaxseg.errors import InputError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)

TEXT = """\
HloModule jit_step, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias) }
  %all-reduce.1 = (f32[3,3]{1,0:T(4,128)}, bf16[8]{0}) all-reduce(f32[3,3] %a, bf16[8] %b), \
channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add
  %ag = (f32[4]{0}, f32[32]{0}) all-gather-start(f32[4] %c), replica_groups={{0,1,2,3,4,5,6,7}}
  %agd = f32[32]{0} all-gather-done((f32[4], f32[32]) %ag)
  %ar = f32[2]{0} all-reduce(f32[2] %e), replica_groups=mesh['axis_0'=8] {'axis_0'}
  %cp = pred[16]{0} collective-permute(pred[16] %d), source_target_pairs={{0,1},{1,0}}
  %fusion = f32[8]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_collectives_are_read_from_a_programs_text():
    assert tpu_programs.collectives(TEXT) == {
        "all-reduce": (2, 3 * 3 * 4 + 8 * 2 + 8),
        "all-gather": (1, 32 * 4),
        "collective-permute": (1, 16),
    }


@pytest.mark.parametrize(
    ("kind", "size", "sent"),
    [("all-reduce", 800, 2 * 7 * 100), ("all-gather", 800, 7 * 100),
     # The result of a reduce-scatter is an eighth of what is sent around.
     ("reduce-scatter", 100, 7 * 100), ("collective-permute", 800, 800)],
)  # fmt: skip
def test_a_ring_sends_what_the_textbook_says(kind, size, sent):
    assert tpu_programs.sent({kind: (1, size)}, chips=8) == sent


@needs_libtpu
def test_an_absent_slice_is_named():
    with pytest.raises(InputError, match="v5e:3x5"):
        tpu_programs.mesh_of("v5e:3x5")


@needs_libtpu
def test_a_batch_that_chips_do_not_divide_is_refused_before_it_is_compiled(monkeypatch):
    monkeypatch.setattr(tpu_programs, "train_step", lambda *_, **__: pytest.fail("it compiled"))
    monkeypatch.setattr(sys, "argv", ["tpu_programs", "--batch", "12"])
    with pytest.raises(InputError, match="--batch: 12 is not a multiple of 8"):
        tpu_programs.main()


class Program:
    """A program of 2 seconds of memory traffic on a TPU v5e chip."""

    def compile(self):
        return self

    def memory_analysis(self):
        return type("Memory", (), {"temp_size_in_bytes": 4 * 10**6})

    def cost_analysis(self):
        return {"flops": 8e9, "bytes accessed": 2 * 819e9}

    def as_text(self):
        return TEXT


@needs_libtpu
def test_a_row_has_the_cost_of_an_image(monkeypatch, tmp_path):
    monkeypatch.setattr(tpu_programs, "train_step", lambda *_, **__: Program())
    file = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["tpu_programs", "--batch", "64", "--json", str(file)])
    tpu_programs.main()
    (row,) = report.read(file)[0]["rows"]
    assert row["images_per_chip"] == 8
    assert row["temporary_MB_per_image"] == 0.5
    assert row["GFLOP_per_image"] == 1.0
    assert row["roofline_ms"] == pytest.approx(2000)
    assert row["collectives"] == "2 all-reduce, 1 all-gather, 1 collective-permute"


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_the_devices_of_a_slice_are_ordered_by_process(topology, monkeypatch):
    devices = list(tpu_programs.mesh_of(topology).devices.flat)
    monkeypatch.setattr(jax, "devices", lambda: devices)
    owners = [device.process_index for device in parallel.make_mesh().devices]
    assert owners == sorted(owners)
    assert len(set(owners)) > 1


@needs_libtpu
@pytest.mark.slow
def test_the_step_on_eight_chips_sends_its_gradients_once_and_nothing_else():
    model = UNet(widths=(8, 16), dropout=0.25, dtype=jnp.bfloat16)
    mesh = tpu_programs.mesh_of("v5e:2x4")
    compiled = tpu_programs.train_step(mesh, model, batch=16, size=64).compile()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    # The gradient of an upsampling kernel is summed as that of its 2x2 form: 16 taps for 9.
    taps = 7 * shapes["params"]["up_0"]["kernel"].size // 9
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    ((kind, (count, size)),) = tpu_programs.collectives(compiled.as_text()).items()
    assert kind == "all-reduce"
    assert count <= 2
    # Gradients are summed in the dtype of the computation; the loss is one value more.
    assert size == pytest.approx(2 * (parameters + taps) + 4, rel=0.01)
    # The parameters and Adam's two moments are updated in place.
    assert compiled.memory_analysis().alias_size_in_bytes >= 3 * 4 * parameters
