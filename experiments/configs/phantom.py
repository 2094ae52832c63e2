"""Synthetic chest X-rays and a small U-Net: the whole path in minutes, without a download.

Command: ``python -m experiments.train``
Cost: three to five minutes on two cores, 35 s of them for the images.
Expected score: Dice 0.97 on unseen phantoms.
"""

from experiments.configuration import Configuration
from experiments.options import Data, Network, Optimization

PHANTOM = Configuration(
    name="phantom",
    data=Data(phantoms=320, size=128),
    network=Network(widths=(8, 16, 32, 64, 128), norm="batch"),
    optimization=Optimization(
        loss=("cross_entropy", "soft_dice"), epochs=8, learning_rate=4e-3, schedule="cosine"
    ),
)
