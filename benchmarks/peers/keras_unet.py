"""The seed's network in Keras 3; the backend is whatever KERAS_BACKEND names."""

import importlib
import itertools
import time
from typing import Any

from benchmarks.peers.setting import (
    DECODER_DROPOUT,
    EPSILON,
    LEARNING_RATE,
    Prepared,
    Setting,
    films,
)

keras: Any = importlib.import_module("keras")


def network(setting: Setting) -> Any:
    """The model, with logits as its output."""
    layers = keras.layers

    def convolutions(x: Any, features: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
        return x

    inputs = x = keras.Input((setting.size, setting.size, 1))
    skips = []
    for features, rate in zip(setting.widths[:-1], setting.dropout, strict=True):
        x = convolutions(x, features)
        skips.append(x)
        x = layers.Dropout(rate)(layers.MaxPooling2D(2)(x))
    x = convolutions(x, setting.widths[-1])
    for features, skip in zip(setting.widths[-2::-1], skips[::-1], strict=True):
        x = layers.Conv2DTranspose(features, 3, strides=2, padding="same")(x)
        x = layers.Dropout(DECODER_DROPOUT)(layers.Concatenate()([x, skip]))
        x = convolutions(x, features)
    return keras.Model(inputs, layers.Conv2D(1, 1, dtype="float32")(x))


def prepare(setting: Setting) -> Prepared:
    """Builds and compiles the model; its steps are ``train_on_batch`` and ``predict_on_batch``.

    The latter copies the logits to the host's memory.
    """
    keras.utils.set_random_seed(0)
    if setting.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = network(setting)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    images, labels = films(setting, 1 if setting.data == "device" else 4)
    pairs = list(zip(images, labels[..., None], strict=True))
    if setting.data == "device":
        pairs = [tuple(map(keras.ops.convert_to_tensor, pair)) for pair in pairs]
    batches = itertools.cycle(pairs)

    def run() -> None:
        batch, targets = next(batches)
        if setting.work == "train":
            model.train_on_batch(batch, targets)
        else:
            model.predict_on_batch(batch)

    began = time.perf_counter()
    run()
    versions = {"keras": keras.__version__}
    backend = keras.backend.backend()
    versions[backend] = importlib.import_module(backend).__version__
    return Prepared(
        run,
        {
            "parameters": model.count_params(),
            "compile_seconds": time.perf_counter() - began,
            "versions": versions,
        },
    )
