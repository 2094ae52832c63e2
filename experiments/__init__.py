"""Experiments: training, evaluation and prediction on images with masks, from the command line."""

import sys

from experiments import signals

# So it is while Python looks for the module of `python -m experiments.train`. What the commands
# import takes seconds, in which a signal may come.
if sys.argv[0] == "-m":
    signals.watch()
