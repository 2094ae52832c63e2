"""The Keras baseline: its network, Adam, cross entropy, 30 epochs and random 70/30 split.

Command: ``python -m experiments.train baseline --manual-dir DIR``
Cost at ``--size 128``, 770 images: about 25 minutes on two cores.
Expected scores there (Viral Pneumonia, 330 test images): Dice 0.944 to 0.960 depending on seed and
machine, mean of three seeds 0.949, IoU 0.904, HD95 6.5 px. At 256, one seed: 0.940, 0.891, 24 px.
The Keras project reports 0.963 for soft Dice pooled by batch, on its COVID images at 256.
"""

from experiments.configuration import Configuration
from experiments.options import Data, Network, Optimization

BASELINE = Configuration(
    name="baseline",
    data=Data(data_config="covid", split="random", size=256, image_resize="nearest"),
    network=Network(dropout=(0.25, 0.5, 0.5, 0.5), decoder_dropout=0.5),
    optimization=Optimization(epochs=30, batch_size=16, learning_rate=5e-4, adam_epsilon=1e-7),
)
