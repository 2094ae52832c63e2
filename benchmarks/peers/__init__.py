"""The seed's U-Net and its train step in several libraries, each a module with ``prepare``."""
