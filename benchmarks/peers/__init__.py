"""The Keras baseline's U-Net and its train step in several libraries: ``prepare(**settings)``."""
