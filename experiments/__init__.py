"""Experiments: training, evaluation and prediction on images with masks, from the command line."""
