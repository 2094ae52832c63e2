"""Writes a run's network to one file that needs no model code, for CPU, GPU and TPU.

    python -m experiments.export RUN --out FILE

The file holds the program with its parameters, and metadata: the size of images, how they are
resized, and the threshold. docs/export.md has a script that segments an image with it.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from experiments import command
from experiments.files import without_nan, write_json
from experiments.runs import RunDirectory, Trained, find_run, load_trained
from jaxseg import export, pretrained
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Write a run's network to one file that needs no model code."""

    #: Run directory created by experiments.train, or lungs, the pretrained network.
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    #: File to write. An existing one is replaced.
    out: Path
    #: Write only the weights, as jaxseg.pretrained.load reads them, and next to them a file .json
    #: with the configuration and the scores of the run.
    weights: bool = False


def write(options: Options) -> None:
    """Exports the network that `experiments.predict` uses, or its weights.

    Raises:
        InputError: The run or the file is invalid.
    """
    if options.out.is_dir():
        raise InputError(f"--out: {options.out} is a folder. Name a file in it")
    run = find_run(options.run)
    trained = load_trained(run)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.weights:
        write_weights(options.out, run, trained)
        return
    multiple = 2 ** (len(trained.configuration.network.widths) - 1)
    command.say("compiling the network")
    program = export.export_prediction(
        trained.model,
        trained.state,
        multiple=multiple,
        channels=trained.configuration.data.channels,
    )
    export.save(options.out, program, metadata(run, trained))
    megabytes = options.out.stat().st_size / 1e6
    print(
        f"{options.out}: {megabytes:.1f} MB, for {', '.join(program.platforms)}, "
        f"images {program.in_avals[0].str_short()}"
    )


def write_weights(path: Path, run: RunDirectory, trained: Trained) -> None:
    """Writes the weights of a run, and its configuration and scores."""
    sha256 = pretrained.save(path, trained.state.variables())
    values = {
        "configuration": trained.configuration.as_json(with_paths=False),
        "data_fingerprint": run.read_config()["data_fingerprint"],
        "summary": run.finished_summary(),
    }
    write_json(path.with_suffix(".json"), values)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256}")


def metadata(run: RunDirectory, trained: Trained) -> dict[str, Any]:
    """Returns what the file says about the program."""
    data, summary = trained.configuration.data, run.read_summary()
    classes = list(data.mask_values())
    decision = "compared with the threshold"
    if len(classes) > 1:
        decision = "the largest gives the class: background, " + ", ".join(classes)
    kind = "Gray" if data.channels == 1 else "RGB"
    return without_nan(
        {
            "size": data.size,
            "channels": data.channels,
            "image_resize": data.image_resize,
            "preprocessing": data.preprocessing,
            "threshold": {"probability": 0.5, "logit": 0.0} if len(classes) <= 1 else None,
            "classes": ["background", *classes] if classes else None,
            "how": f"{kind} images are preprocessed, resized to size x size, and passed as uint8 "
            f"[B, size, size, {data.channels}]. Logits are resized bilinearly to the original size "
            f"and {decision}. The program takes other sizes, but was not trained on them.",
            "run": {
                "configuration": trained.configuration.name,
                "step": int(trained.state.step),
                "data_fingerprint": run.read_config()["data_fingerprint"],
                "test": summary["test"] if summary else None,
            },
            "versions": command.machine()["versions"],
        }
    )


def main() -> None:
    """Reads the command line and exports."""
    write(tyro.cli(Options, prog="python -m experiments.export", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
