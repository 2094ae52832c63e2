"""Films as arrays: the archive, the TFDS builder, phantoms, the array cache."""
