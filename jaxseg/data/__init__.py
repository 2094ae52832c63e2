"""Datasets as arrays: image files, folders, the archive and its TFDS builder, phantoms."""
