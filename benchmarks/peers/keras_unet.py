"""The network in Keras 3; the environment variable KERAS_BACKEND names the backend."""

import importlib
import time
from typing import Any

from benchmarks.peers.setting import DECODER_DROPOUT, EPSILON, LEARNING_RATE, Setting

keras: Any = importlib.import_module("keras")


def network(setting: Setting) -> Any:
    """The model, with logits as its output."""
    layers = keras.layers

    def convolutions(x: Any, channels: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        return x

    inputs = x = keras.Input((setting.size, setting.size, 1))
    skips = []
    for channels, rate in zip(setting.widths[:-1], setting.dropout, strict=True):
        x = convolutions(x, channels)
        skips.append(x)
        x = layers.Dropout(rate)(layers.MaxPooling2D(2)(x))
    x = convolutions(x, setting.widths[-1])
    for channels, skip in zip(setting.widths[-2::-1], skips[::-1], strict=True):
        x = layers.Conv2DTranspose(channels, 3, strides=2, padding="same")(x)
        x = layers.Dropout(DECODER_DROPOUT)(layers.Concatenate()([x, skip]))
        x = convolutions(x, channels)
    return keras.Model(inputs, layers.Conv2D(1, 1, dtype="float32")(x))


def prepare(**settings: Any) -> Any:
    """Compiles the model; cases are ``train_on_batch`` and ``predict_on_batch``.

    The latter also copies the logits to the host.
    """
    setting = Setting(**settings)
    keras.utils.set_random_seed(0)
    if setting.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = network(setting)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    images, labels = setting.batch_arrays()
    batch, targets = map(keras.ops.convert_to_tensor, (images, labels[..., None]))

    def run() -> None:
        if setting.work == "train":
            model.train_on_batch(batch, targets)
        else:
            model.predict_on_batch(batch)

    began = time.perf_counter()
    run()
    return setting.prepared(run, model.count_params(), compile_seconds=time.perf_counter() - began)
