"""Logits of a batch by the Keras baseline's U-Net, by jaxseg and by other libraries.

    python -m benchmarks.inference [options of benchmarks.train_step]

Dropout is off, and the default batch is 4.
"""

from benchmarks.train_step import main

if __name__ == "__main__":
    main("inference", __doc__, work="predict", batch=4)
