"""Each convolution of the seed's U-Net by itself, beside the machine's measured matrix product.

    python -m benchmarks.layers [--batch N] [--size N] [--repeats N] [--peer] [--json FILE]

Forward, gradient of the input and gradient of the kernel, each compiled apart, in float32: rate in
GFLOP/s of the work that the layer's definition needs, and share of the rate of a 2048 x 2048 matrix
product here. Where one column of the table is far below the product's rate, XLA's convolution is
what bounds the step there. ``--peer`` adds the same layers in PyTorch, on a CPU only.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.metrics import peer, require_cpu
from benchmarks.peers.setting import Setting
from jaxseg.models.layers import upsampling_convolution

SIDE = 2048


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution as `flax.linen.Conv` computes it."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def shapes(setting: Setting) -> list[tuple[str, int, int, int]]:
    """Name, side of the input in pixels, channels in and out, of every kernel of 3x3."""
    found, widths, channels = [], setting.widths, 1
    for level, width in enumerate(widths):
        name = f"encoder_{level}" if level < len(widths) - 1 else "bottleneck"
        side = setting.size >> level
        found += [(f"{name} 1", side, channels, width), (f"{name} 2", side, width, width)]
        channels = width
    for level in reversed(range(len(widths) - 1)):
        side, width = setting.size >> level, widths[level]
        found.append((f"up_{level}", side // 2, widths[level + 1], width))
        found.append((f"decoder_{level} 1", side, 2 * width, width))
        found.append((f"decoder_{level} 2", side, width, width))
    return found


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median, after one run that is not counted."""
    run()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def product_rate(repeats: int) -> float:
    """FLOP/s of a float32 matrix product."""
    a = jnp.ones((SIDE, SIDE))
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    return 2 * SIDE**3 / seconds(lambda: product(a).block_until_ready(), repeats)


def ours(x: np.ndarray, kernel: np.ndarray, up: bool) -> dict[str, Callable[[], Any]]:
    """The three programs of a layer of jaxseg's network."""
    layer = upsampling_convolution if up else convolution
    y = jax.jit(layer)(x, kernel)

    def pulled_back(position: int) -> Callable[..., jax.Array]:
        return jax.jit(lambda x, kernel, y: jax.vjp(layer, x, kernel)[1](y)[position])

    arrays = tuple(map(jnp.asarray, (x, kernel, y)))
    forward, to_input, to_kernel = jax.jit(layer), pulled_back(0), pulled_back(1)
    return {
        "forward": lambda: forward(*arrays[:2]).block_until_ready(),
        "input gradient": lambda: to_input(*arrays).block_until_ready(),
        "kernel gradient": lambda: to_kernel(*arrays).block_until_ready(),
    }


def pytorch(x: np.ndarray, kernel: np.ndarray, up: bool) -> dict[str, Callable[[], Any]]:
    """The same, channels last."""
    torch = peer("torch")
    channels_last = {"memory_format": torch.channels_last}
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(**channels_last)
    order = (2, 3, 0, 1) if up else (3, 2, 0, 1)
    weights = torch.from_numpy(kernel).permute(*order).contiguous(**channels_last)
    stride, padding, extra = ([2, 2], [1, 1], [1, 1]) if up else ([1, 1], [1, 1], [0, 0])
    arguments = (None, stride, padding, [1, 1], up, extra, 1)
    y = torch.ops.aten.convolution(images, weights, *arguments)

    def backward(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(y, images, weights, [0], *arguments[1:], mask)

    return {
        "forward": lambda: torch.ops.aten.convolution(images, weights, *arguments),
        "input gradient": lambda: backward([True, False, False]),
        "kernel gradient": lambda: backward([False, True, False]),
    }


def measure(setting: Setting, repeats: int, beside: bool) -> list[dict[str, Any]]:
    """A row for each layer; ``beside`` is whether PyTorch runs, too."""
    peak, rng, rows = product_rate(repeats), np.random.default_rng(0), []
    print(f"matrix product of {SIDE} x {SIDE}: {peak / 1e9:.0f} GFLOP/s", flush=True)
    for name, side, channels, features in shapes(setting):
        x = rng.standard_normal((setting.batch, side, side, channels), np.float32)
        kernel = rng.standard_normal((3, 3, channels, features), np.float32)
        flops = 2 * setting.batch * side**2 * 9 * channels * features
        row: dict[str, Any] = {"layer": name, "shape": f"{side}, {channels} to {features}"}
        libraries = {"": ours, "PyTorch ": pytorch} if beside else {"": ours}
        for library, programs in libraries.items():
            for what, run in programs(x, kernel, name.startswith("up")).items():
                rate = flops / seconds(run, repeats)
                row[f"{library}{what}"] = rate / 1e9
                row[f"{library}{what}, share"] = rate / peak
        rows.append(row)
    return rows


def main() -> None:
    """Prints the table.

    Raises:
        SystemExit: PyTorch is to run and is not installed, or jaxseg would not run on the CPU.
    """
    default = Setting()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers")
    parser.add_argument("--batch", type=int, default=default.batch, metavar="N")
    parser.add_argument("--size", type=int, default=default.size, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--peer", action="store_true", help="PyTorch too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.peer:
        if importlib.util.find_spec("torch") is None:
            raise SystemExit("--peer: torch is not installed (extra: peers)")
        require_cpu()
    rows = measure(Setting(batch=options.batch, size=options.size), options.repeats, options.peer)
    whats = [
        f"{library}{what}"
        for library in (("", "PyTorch ") if options.peer else ("",))
        for what in ("forward", "input gradient", "kernel gradient")
    ]
    columns = {"layer": "", "shape": ""}
    for what in whats:
        columns |= {what: ".0f", f"{what}, share": ".0%"}
    print(record.table(rows, columns))
    if options.json:
        record.write(options.json, {"conditions": record.conditions(), "results": rows})


if __name__ == "__main__":
    main()
