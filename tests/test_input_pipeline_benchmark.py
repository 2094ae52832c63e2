"""The loaders that the input pipeline's benchmark compares read the same films."""

import sys

import numpy as np
import pytest
from fake_archive import write_folder

from benchmarks import input_pipeline
from benchmarks.input_pipeline import agree, write_pictures
from benchmarks.loaders import CONTENDERS, Task, totals
from jaxseg.data.arrays import load_arrays
from jaxseg.data.covid_radiography import prepare
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")


class Answered:
    """A contender that has read something."""

    def __init__(self, films, images, labels):
        self.name, self.read = "it", {"films": films, "images": images, "labels": labels}


@pytest.mark.parametrize("name", ["cache, reading back", "stream", "device-resident"])
def test_ours_read_every_film_once(name, tmp_path):
    write_folder(tmp_path, {"COVID": range(1, 8)})
    builder = prepare(tmp_path, tmp_path / "data", "covid")
    order = [[3, 1, 4], [0, 5, 2], [6]]
    folders = {"archive": str(tmp_path), "data_dir": str(tmp_path / "data"), "pictures": ""}
    task = Task(**folders, config="covid", order=order, size=16, workers=0)
    arrays = load_arrays(builder, size=16)
    sums = [int(np.asarray(array, np.int64).sum()) for array in (arrays.images, arrays.labels)]
    assert totals(CONTENDERS[name](task)) == {"films": 7, "images": sums[0], "labels": sums[1]}


def test_the_dataloader_reads_what_the_arrays_hold(tmp_path):
    pytest.importorskip("torch")
    write_folder(tmp_path, {"COVID": range(1, 5)})
    builder = prepare(tmp_path, tmp_path / "data", "covid")
    (tmp_path / "pictures").mkdir()
    assert write_pictures(builder, tmp_path / "pictures") == 4
    folders = {"archive": "", "data_dir": "", "pictures": str(tmp_path / "pictures")}
    task = Task(**folders, config="covid", order=[[3, 1], [0, 2]], size=16, workers=0)
    arrays = load_arrays(builder, size=16)
    batches = CONTENDERS["PyTorch DataLoader"](task)()
    for batch, films in zip(batches, task.order, strict=True):
        assert batch is not None
        images, labels = batch
        np.testing.assert_array_equal(images, arrays.images[films])
        np.testing.assert_array_equal(labels, arrays.labels[films])


@pytest.mark.parametrize(
    ("theirs", "same"),
    [((9, 1000000, 50), True), ((9, 1000100, 50), True), ((9, 1002000, 50), False),
     ((9, 1000000, 51), False), ((8, 1000000, 50), False)],
)  # fmt: skip
def test_contenders_that_read_something_else_are_noticed(theirs, same):
    assert agree([Answered(9, 1000000, 50), Answered(*theirs)]) is same


def test_an_interpreter_that_is_not_there_is_named_before_films_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(input_pipeline, "write_pictures", lambda *_: pytest.fail("it prepared"))
    write_folder(tmp_path, {"COVID": range(1, 3)})
    arguments = ["loaders", "--manual-dir", str(tmp_path), "--tensorflow-python", "/nowhere"]
    monkeypatch.setattr(sys, "argv", ["input_pipeline", *arguments])
    with pytest.raises(InputError, match="--tensorflow-python: no interpreter /nowhere"):
        input_pipeline.main()
