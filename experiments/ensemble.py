"""Scores several runs as one network, and says which films they disagree on.

    python -m experiments.ensemble RUN RUN ... --out DIR [--images DIR --masks DIR] [more]

The runs' probabilities are averaged. Their disagreement needs no truth: does it find the bad masks?
Writes ``ensemble.json``, ``per_image.csv`` with each film's ``disagreement``, ``ensemble.png`` with
the worst films and ``uncertainty.png`` with those most disagreed on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, Positional

from experiments import command, evaluate, films, pictures, report, trained
from experiments.configuration import with_defaults
from experiments.page import number
from experiments.run_directory import RunDirectory, write_bytes, write_json
from experiments.scoring import draw_examples, score
from jaxseg import inference, metrics, parallel
from jaxseg.errors import InputError
from jaxseg.types import Images, Logits

WORST, UNSURE = 0.1, 0.2
"""How many of the worst tenth of films are among the fifth most disagreed on?"""

DRAWN = 4
"""Films in ``uncertainty.png``."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores several runs as one network, on their test films or on a folder of films."""

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN RUN [RUN ...]")]
    """Run directories, two or more, that see films in the same way and, unless --images is given,
    have the same test films."""
    out: Path
    """Where to write."""
    elsewhere: Annotated[OmitArgPrefixes[evaluate.Elsewhere], tyro.conf.arg(name="")] = (
        evaluate.NOWHERE
    )
    own: Annotated[OmitArgPrefixes[films.OwnPlaces], tyro.conf.arg(name="")] = films.AS_FOUND


def ensemble(options: Options) -> None:
    """Scores the films and writes the results.

    Raises:
        InputError: The runs do not go together, or a run, a film or an option will not do.
    """
    images_dir = options.elsewhere.images
    members = _load(options.runs, own_films=images_dir is None)
    first = RunDirectory(options.runs[0])
    arrays, indices = evaluate.films_to_score(first, options.elsewhere, own_places=options.own)
    configuration = members[0].configuration
    mesh = parallel.make_mesh()
    rows = parallel.padded_size(configuration.batch_size, mesh)
    states = tuple(parallel.replicate(member.state, mesh) for member in members)
    each = _logits_of_each(members)

    def joint(states: Any, images: Images) -> Logits:
        return inference.ensemble_logits(each(states, images))

    scores = score(
        joint,
        states,
        arrays,
        indices,
        mesh,
        rows=rows,
        class_names=tuple(configuration.mask_values()),
        # The compiler finds that these networks are those of `joint` and computes them once.
        also={"disagreement": lambda *given: inference.disagreement(each(*given))},
    )
    disagreement = scores.columns["disagreement"]

    options.out.mkdir(parents=True, exist_ok=True)
    scores.table().write(options.out / "per_image.csv")
    found = finds_bad_masks(disagreement, scores.columns["dice"])
    write_json(
        options.out / "ensemble.json",
        {
            "runs": [path.name for path in options.runs],
            "films": "the runs' test films" if images_dir is None else str(images_dir),
            "test": scores.summary(),
            "disagreement": found,
            **report.machine(),
        },
    )
    draw_examples(options.out / "ensemble.png", joint, states, arrays, indices, scores)
    chosen = np.argsort(-disagreement, kind="stable")[:DRAWN]
    images = np.stack([arrays.images[indices[row]] for row in chosen])
    logits = jax.jit(each)(parallel.local_copy(states), images)
    captions = [
        f"{scores.ids[row]}\ndisagreement {disagreement[row]:.3f}\n"
        f"Dice {scores.columns['dice'][row]:.3f}"
        for row in chosen
    ]
    write_bytes(
        options.out / "uncertainty.png",
        pictures.uncertainty(
            images[..., 0],
            np.stack([metrics.predicted_labels(own) for own in logits]),
            np.asarray(inference.mutual_information(logits)),
            captions,
            [path.name for path in options.runs],
        ),
    )
    print(report.one_line(scores.summary()))
    print(
        f"disagreement and 1 - Dice: rank correlation {number(found['rank_correlation'])}; "
        f"of the worst {WORST:.0%} of films a share of {number(found['worst_found'], 2)} is among "
        f"the {UNSURE:.0%} most disagreed on"
    )
    print(f"written: {options.out / 'ensemble.json'}, per_image.csv, ensemble.png, uncertainty.png")


def finds_bad_masks(disagreement: np.ndarray, dice: np.ndarray) -> dict[str, float]:
    """How well films of low Dice are told by disagreement, over films where both are defined.

    Returns:
        ``rank_correlation``: Spearman's, of disagreement and 1 - Dice, in [-1, 1].
        ``worst_found``: the share of the `WORST` films by Dice that are among the `UNSURE` ones by
        disagreement, in [0, 1], ties taken as they fall on average; by chance it is `UNSURE`. Both
        NaN where either is the same for all films.
    """
    from scipy import stats

    defined = ~np.isnan(dice) & ~np.isnan(disagreement)
    dice, disagreement = dice[defined], disagreement[defined]
    if len(set(dice)) < 2 or len(set(disagreement)) < 2:
        return {"rank_correlation": float("nan"), "worst_found": float("nan")}
    found: Any = stats.spearmanr(disagreement, 1 - dice)
    worst, unsure = _among_highest(-dice, WORST), _among_highest(disagreement, UNSURE)
    return {
        "rank_correlation": float(found.statistic),
        "worst_found": float((worst * unsure).sum() / worst.sum()),
    }


def _among_highest(values: np.ndarray, share: float) -> np.ndarray:
    """The probability of each value to be among the highest share, ties broken by lot."""
    count = max(1, round(share * len(values)))
    least = np.sort(values)[-count]
    above, tied = values > least, values == least
    return above + tied * (count - above.sum()) / tied.sum()


def _load(runs: Sequence[Path], *, own_films: bool) -> list[trained.Trained]:
    """The runs, which must see films in the same way, and of their own test on the same."""
    if len(runs) < 2:
        raise InputError("RUN: an ensemble is of two or more runs")
    if len({path.resolve() for path in runs}) < len(runs):
        raise InputError("RUN: a run is there twice")
    members = [trained.load(RunDirectory(path)) for path in runs]

    def must_share(run: RunDirectory) -> dict[str, Any]:
        config = run.read_config()
        kept = with_defaults(config["configuration"])
        seen = {name: kept[name] for name in ("size", "film_resize", "preprocessing", "classes")}
        if not own_films:
            return seen
        # A film that one run was to be tested on, another may have learnt.
        tested = {name: kept[name] for name in ("data_config", "split", "skip_bad")}
        return seen | tested | {"data_fingerprint": config["data_fingerprint"]}

    first = must_share(RunDirectory(runs[0]))
    for path in runs[1:]:
        for name, own in must_share(RunDirectory(path)).items():
            if own != first[name]:
                raise InputError(f"{path}: {name} is {own}, that of {runs[0]} is {first[name]}")
    return members


def _logits_of_each(members: Sequence[trained.Trained]) -> Callable[[Any, Images], jax.Array]:
    """Makes a function of all states and a batch that gives ``[M, B, H, W, K]``."""
    predicts = [inference.make_predict(member.model) for member in members]

    def each(states: Any, images: Images) -> jax.Array:
        pairs = zip(predicts, states, strict=True)
        return jnp.stack([jnp.asarray(predict(state, images)) for predict, state in pairs])

    return each


def main() -> None:
    """Reads the command line and scores."""
    ensemble(tyro.cli(Options, prog="python -m experiments.ensemble", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
