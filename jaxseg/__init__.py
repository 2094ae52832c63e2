"""Image segmentation in pure JAX."""
