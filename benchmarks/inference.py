"""Logits of a batch by the seed's U-Net, jaxseg beside its peers.

    python -m benchmarks.inference [options of benchmarks.train_step]

Dropout off; every contender in a process of its own, in turns, compile apart.
"""

import json
import os

from benchmarks import record
from benchmarks.contenders import SHARED
from benchmarks.train_step import parser, run, settings


def main() -> None:
    """Measures every setting, and writes after each what is measured by then."""
    # This process asks JAX for its devices, too.
    os.environ.update(SHARED)
    options = parser("predict").parse_args()
    results = []
    for setting in settings(options, "predict"):
        results.append({"setting": json.loads(setting.as_json()), "rows": run(options, setting)})
        if options.json:
            record.write(options.json, {"conditions": record.conditions(), "results": results})


if __name__ == "__main__":
    main()
