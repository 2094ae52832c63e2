"""One train step of the Keras baseline's U-Net, by jaxseg and by other libraries.

    python -m benchmarks.train_step [--batch 16] [--size 256] [--widths 16 32 64 128 256]
        [--dtype float32]

Adam, cross entropy, dropout on. ``python -m benchmarks.inference`` has the same options.
"""

from benchmarks import protocol
from benchmarks.protocol import Implementation

PYTORCH, KERAS = "benchmarks.peers.pytorch:prepare", "benchmarks.peers.keras_unet:prepare"

IMPLEMENTATIONS = (
    Implementation("jaxseg", "benchmarks.peers.jax_unets:ours"),
    Implementation("plain Flax", "benchmarks.peers.jax_unets:plain"),
    Implementation("PyTorch eager", PYTORCH),
    Implementation("torch.compile", PYTORCH, {"compiled": True}),
    Implementation("Keras on JAX", KERAS, environment={"KERAS_BACKEND": "jax"}),
    Implementation("Keras on TensorFlow", KERAS, environment={"KERAS_BACKEND": "tensorflow"}),
)


def main(benchmark: str, doc: str | None, *, work: str, batch: int) -> None:
    """Measures and publishes what the command line asks for."""
    columns = ("name", "seconds", "fastest", "slowest", "relative_time", "images_per_second")
    columns += ("compile_seconds", "peak_MB", "device")
    protocol.main(
        benchmark, doc, IMPLEMENTATIONS, columns, count="batch",
        work=work, batch=batch, size=256, widths=[16, 32, 64, 128, 256], dtype="float32",
    )  # fmt: skip


if __name__ == "__main__":
    main("train_step", __doc__, work="train", batch=16)
