"""The seed's recipe to the letter: its network, Adam, cross entropy, 30 epochs, its 70/30 split.

Command: ``python -m experiments.train seed --manual-dir DIR``
"""

from experiments.configuration import Configuration
from jaxseg import losses

SEED = Configuration(
    name="seed",
    data_config="covid",
    split="seed",
    size=256,
    film_resize="nearest",
    dropout=(0.25, 0.5, 0.5, 0.5),
    decoder_dropout=0.5,
    loss=losses.cross_entropy,
    epochs=30,
    batch_size=16,
    learning_rate=5e-4,
    adam_epsilon=1e-7,
)
