"""Writes a run's network to one file that needs no model code, for CPU, GPU and TPU at once.

    python -m experiments.export RUN --out FILE

The file holds the program with its parameters, and metadata for its users: the size
that images are resized to, how, and the threshold of the logits. docs/export.md has a script that
segments an image with it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from experiments import command, report, trained
from experiments.run_directory import RunDirectory, without_nan
from jaxseg import export
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a run's network to one file that needs no model code."""

    run: Positional[Path]
    """Run directory."""
    out: Path
    """File to write. An existing one is replaced."""


def write(options: Options) -> None:
    """Exports the state that `experiments.predict` takes.

    Raises:
        InputError: The run or the file is invalid.
    """
    if options.out.is_dir():
        raise InputError(f"--out: {options.out} is a folder; name a file in it")
    run = RunDirectory(options.run)
    learnt = trained.load(run)
    multiple = 2 ** (len(learnt.configuration.widths) - 1)
    program = export.export_prediction(learnt.model, learnt.state, multiple=multiple)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    export.save(options.out, program, metadata(run, learnt))
    megabytes = options.out.stat().st_size / 1e6
    print(
        f"{options.out}: {megabytes:.1f} MB, for {', '.join(program.platforms)}, "
        f"images {program.in_avals[0].str_short()}"
    )


def metadata(run: RunDirectory, learnt: trained.Trained) -> dict[str, Any]:
    """Returns what the file says about the program."""
    configuration = learnt.configuration
    summary = run.read_summary()
    classes = list(configuration.mask_values())
    decision = "compared with the threshold"
    if len(classes) > 1:
        decision = "the largest gives the class: background, " + ", ".join(classes)
    return without_nan(
        {
            "size": configuration.size,
            "film_resize": configuration.film_resize,
            "preprocessing": configuration.preprocessing,
            "threshold": {"probability": 0.5, "logit": 0.0} if len(classes) <= 1 else None,
            "classes": ["background", *classes] if classes else None,
            "how": "Gray images are preprocessed, resized to size x size, and passed as uint8 "
            "[B, size, size, 1]. Logits are resized bilinearly to the original size and "
            f"{decision}. The program takes other sizes, but was not trained on them.",
            "run": {
                "configuration": configuration.name,
                "step": int(learnt.state.step),
                "data_fingerprint": run.read_config()["data_fingerprint"],
                "test": summary["test"] if summary else None,
            },
            "versions": report.machine()["versions"],
        }
    )


def main() -> None:
    """Reads the command line and exports."""
    write(tyro.cli(Options, prog="python -m experiments.export", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
