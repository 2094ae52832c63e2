"""One contender in a process of its own, run step by step on its parent's word.

Started by `benchmarks.turns`: ``python -m benchmarks.worker MODULE OPTIONS SETTING``, the last two
as JSON. It prints one JSON line when it is ready, one for every number of steps that it reads, and
one at the end of its input. It imports nothing but its contender, whose library may be the only one
that its interpreter has.
"""

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

from benchmarks.peers.setting import Setting


def main() -> None:
    """Prepares the contender named on the command line and answers."""
    module, options, setting = sys.argv[1:]
    # Libraries print; only this stream is read.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    contender = importlib.import_module(f"benchmarks.peers.{module}")
    prepared = contender.prepare(Setting.from_json(setting), **json.loads(options))
    answer(facts=prepared.facts)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            prepared.run()
            seconds.append(time.perf_counter() - began)
        answer(seconds=seconds)
    answer(peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
