"""Scores several runs as one network, and how well their disagreement finds bad masks.

    python -m experiments.ensemble RUN RUN ... --out DIR [--images DIR --masks DIR] [options]

The runs' probabilities are averaged. Writes ``ensemble.json``, ``per_image.csv`` with a column
``disagreement``, and ``ensemble.png`` with the worst images.
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

from experiments import command, dataset, evaluate
from experiments.examples import draw_examples
from experiments.runs import Trained, find_run, load_trained
from experiments.scores import number
from experiments.scoring import score
from jaxseg import inference, parallel
from jaxseg.errors import InputError
from jaxseg.types import Images, Logits

WORST, UNCERTAIN = 0.1, 0.2
"""How many of the worst tenth of images are among the fifth with the largest disagreement?"""

SHARED = ("size", "channels", "image_resize", "preprocessing", "classes")
"""Options that members must share."""

SHARED_TEST_IMAGES = ("data_config", "split", "skip_bad")
"""Options that members must share to have the same test images."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Score several runs as one network, on their test images or on a folder of images."""

    #: Two or more run directories with the same size, preprocessing and classes; without --images
    #: also with the same test images.
    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN RUN [RUN ...]")]
    #: Folder to write to.
    out: Path
    external: OmitArgPrefixes[evaluate.ExternalImages] = evaluate.ExternalImages()
    moved: OmitArgPrefixes[dataset.Moved] = dataset.Moved()


def ensemble(options: Options) -> None:
    """Scores the images and writes the results.

    Raises:
        InputError: The runs do not fit together, or a run, an image or an option is invalid.
    """
    external = options.external
    external.check()
    members = load_members(options.runs, same_test_images=external.images is None)
    first, configuration = find_run(options.runs[0]), members[0].configuration
    arrays, indices = evaluate.images_to_score(first, external, subset="test", moved=options.moved)
    mesh = parallel.make_mesh()
    states = tuple(parallel.replicate(member.state, mesh) for member in members)
    logits_of_each = _logits_of_each(members)

    def predict(states: Any, images: Images) -> Logits:
        return inference.ensemble_logits(logits_of_each(states, images))

    def disagreement_of(states: Any, images: Images) -> jax.Array:
        # The compiler finds that these are the networks of `predict` and computes them once.
        return inference.disagreement(logits_of_each(states, images))

    scored = score(
        predict,
        states,
        arrays,
        indices,
        mesh,
        rows=parallel.padded_size(configuration.optimization.batch_size, mesh),
        class_names=configuration.data.class_names(),
        measures={"disagreement": disagreement_of},
    )
    found = finds_bad_masks(scored.columns["disagreement"], scored.columns["dice"])
    made = {
        "runs": [path.name for path in options.runs],
        "images": str(external.images or "test images of the runs"),
        "disagreement": found,
    }
    evaluate.write_scores(options.out / "ensemble.json", scored, made)
    draw_examples(options.out / "ensemble.png", predict, states, arrays, indices, scored)
    print(
        f"disagreement and 1 - Dice: rank correlation {number(found['rank_correlation'])}; "
        f"{number(found['worst_found'], 2)} of the worst {WORST:.0%} of images are among the "
        f"{UNCERTAIN:.0%} with the largest disagreement"
    )


def finds_bad_masks(disagreement: np.ndarray, dice: np.ndarray) -> dict[str, float]:
    """Returns how well disagreement finds images with a low Dice, where both are defined.

    Returns:
        ``rank_correlation``: Spearman's, of disagreement and 1 - Dice, in [-1, 1].
        ``worst_found``: the fraction of the `WORST` images by Dice that are among the `UNCERTAIN`
        ones by disagreement, in [0, 1], averaged over orders of equal values; `UNCERTAIN` by
        chance. Both are NaN if either is the same for all images.
    """
    from scipy import stats

    defined = ~np.isnan(dice) & ~np.isnan(disagreement)
    dice, disagreement = dice[defined], disagreement[defined]
    if len(set(dice)) < 2 or len(set(disagreement)) < 2:
        return {"rank_correlation": float("nan"), "worst_found": float("nan")}
    correlation: Any = stats.spearmanr(disagreement, 1 - dice)
    worst, uncertain = _among_highest(-dice, WORST), _among_highest(disagreement, UNCERTAIN)
    return {
        "rank_correlation": float(correlation.statistic),
        "worst_found": float((worst * uncertain).sum() / worst.sum()),
    }


def load_members(runs: Sequence[Path], *, same_test_images: bool) -> list[Trained]:
    """Loads runs that can be one ensemble.

    Raises:
        InputError: There are fewer than two runs, one is there twice, or they differ in an option
            that members must share.
    """
    if len(runs) < 2:
        raise InputError("RUN: an ensemble needs two or more runs")
    if len({path.resolve() for path in runs}) < len(runs):
        raise InputError("RUN: a run is there twice")
    members = [load_trained(find_run(path)) for path in runs]
    # An image that is tested in one run may be a training image in another.
    names = (*SHARED, *(SHARED_TEST_IMAGES if same_test_images else ()))
    shared = [
        {name: getattr(member.configuration.data, name) for name in names} for member in members
    ]
    if same_test_images:
        for options, path in zip(shared, runs, strict=True):
            options["data_fingerprint"] = find_run(path).read_config()["data_fingerprint"]
    for path, options in zip(runs, shared, strict=True):
        for name, value in options.items():
            if value != shared[0][name]:
                raise InputError(
                    f"{path}: {name} is {value}, but {shared[0][name]} in {runs[0]}. Ensemble "
                    "members must agree on size, preprocessing, classes and test images"
                )
    return members


def _among_highest(values: np.ndarray, fraction: float) -> np.ndarray:
    """The probability of each value to be among the highest, if ties are broken at random."""
    count = max(1, round(fraction * len(values)))
    least = np.sort(values)[-count]
    above, tied = values > least, values == least
    return above + tied * (count - above.sum()) / tied.sum()


def _logits_of_each(members: Sequence[Trained]) -> Callable[[Any, Images], jax.Array]:
    """Returns a function of all states and a batch that gives ``[members, B, H, W, K]``."""
    predicts = [inference.make_predict(member.model) for member in members]

    def logits(states: Any, images: Images) -> jax.Array:
        pairs = zip(predicts, states, strict=True)
        return jnp.stack([jnp.asarray(predict(state, images)) for predict, state in pairs])

    return logits


def main() -> None:
    """Reads the command line and scores."""
    ensemble(tyro.cli(Options, prog="python -m experiments.ensemble", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
