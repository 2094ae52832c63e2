"""Experiments: training, evaluation and prediction on chest films, from the command line."""
