"""The seed's recipe to the letter: its network, Adam, cross entropy, 30 epochs, its 70/30 split.

Command: ``python -m experiments.train seed --manual-dir DIR``
Cost at ``--size 128``, 770 films: about 25 minutes on two cores.
Scores to expect there (Viral Pneumonia, 330 test films): Dice 0.944 to 0.960 by seed and machine,
three seeds' mean 0.949, IoU 0.904, HD95 6.5 px; at 256, of one seed, 0.940, 0.891 and 24 px. The
seed itself reports 0.963 for soft Dice pooled by batch, on its COVID films at 256.
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
