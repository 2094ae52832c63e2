"""Train steps compiled for TPU slices that are only described."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks import report, tpu_compile, tpu_programs
from jaxseg import UNet, losses, parallel
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
        tpu_programs.describe("v5e:3x5")


@needs_libtpu
def test_a_batch_that_chips_do_not_divide_is_refused_before_it_is_compiled(monkeypatch):
    monkeypatch.setattr(tpu_programs, "train_step_program", lambda *_: pytest.fail("it compiled"))
    monkeypatch.setattr(sys, "argv", ["tpu_compile", "--batch", "12"])
    with pytest.raises(InputError, match="--batch: 12 is not a multiple of 8"):
        tpu_compile.main()


@needs_libtpu
def test_a_row_has_the_cost_of_an_image_and_the_compilers_reason(monkeypatch, tmp_path):
    found = {
        "compile_seconds": 1.0, "arguments": 10**6, "temporary": 4 * 10**6, "flops": 8e9,
        "traffic": 2 * 819e6, "gathers": 0, "collectives": {"all-reduce": (2, 5)}, "sent": 200e6,
        "donated_fraction": 1.0,
    }  # fmt: skip

    def compiled(mesh, *_, batch, **__):
        if batch > 16 * mesh.size:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return dict(found)

    monkeypatch.setattr(tpu_programs, "train_step_program", compiled)
    file = tmp_path / "report.json"
    arguments = ["--batch", "64", "256", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["tpu_compile", *arguments])
    tpu_compile.main()
    fits, refused = report.read(file)[0]["rows"]
    assert fits["images_per_chip"] == 8
    assert fits["temporary_MB_per_image"] == 0.5
    assert fits["roofline_ms"] == pytest.approx(2.0)
    assert fits["links_ms"] == pytest.approx(1.0)
    assert fits["collectives"] == "2 all-reduce"
    assert "out of memory" in refused["refused"]


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
    program = tpu_programs.train_step_program(
        tpu_programs.mesh_of("v5e:2x4"),
        model,
        optax.adam(1e-3),
        losses.cross_entropy,
        batch=16,
        size=64,
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    # The gradient of an upsampling kernel is summed as that of its 2x2 form: 16 taps for 9.
    taps = 7 * shapes["params"]["up_0"]["kernel"].size // 9
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # Gradients are summed in the dtype of the computation; the loss is one value more.
    expected = jnp.dtype(dtype).itemsize * (parameters + taps) + 4
    ((kind, (count, size)),) = program["collectives"].items()
    assert kind == "all-reduce"
    assert count <= 2
    assert size == pytest.approx(expected, rel=0.01)
    assert program["donated_fraction"] == 1.0
