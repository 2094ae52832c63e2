"""The input paths that are compared read the same images."""

import itertools
import sys

import numpy as np
import pytest
from fake_archive import write_folder

from benchmarks import input_pipeline, protocol
from jaxseg.data.arrays import load_arrays

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")


@pytest.fixture
def settings(tmp_path):
    """Seven images in batches of three, prepared and as PNG files."""
    write_folder(tmp_path, {"COVID": range(1, 8)})
    dataset = [str(tmp_path), "covid", str(tmp_path / "data")]
    assert input_pipeline.write_pictures(dataset, tmp_path / "pictures") == 7
    return {
        "images": 7, "batch": 3, "size": 16, "workers": 0, "dataset": dataset,
        "pictures": str(tmp_path / "pictures"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["stream", "on_device", "data_loader"])
def test_every_path_reads_every_image_once(name, settings):
    if name == "data_loader":
        pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    cases, metadata = getattr(input_pipeline, name)(**settings)
    cases["one pass"]()
    arrays = load_arrays(input_pipeline.prepared(*settings["dataset"]), size=16)
    sums = [int(np.asarray(array, np.int64).sum()) for array in (arrays.images, arrays.labels)]
    assert metadata["read"] == {"images": 7, "image_sum": sums[0], "label_sum": sums[1]}


def test_the_order_has_every_image_once():
    batches = input_pipeline.order(7, 3)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert sorted(itertools.chain(*batches)) == list(range(7))


@pytest.mark.parametrize(
    ("theirs", "same"),
    [((9, 1000000, 50), True), ((9, 1000100, 50), True), ((9, 1002000, 50), False),
     ((9, 1000000, 51), False), ((8, 1000000, 50), False)],
)  # fmt: skip
def test_other_images_are_noticed_and_rounding_is_not(theirs, same):
    rows = [
        {"name": name, "read": dict(zip(("images", "image_sum", "label_sum"), read, strict=True))}
        for name, read in (("one", (9, 1000000, 50)), ("other", theirs))
    ]
    assert (input_pipeline.difference(rows) is None) is same


def test_the_command_publishes_rates(settings, monkeypatch, capsys):
    read = {"images": 7, "image_sum": 1, "label_sum": 1}
    rows = [
        {"case": "one pass", "name": name, "seconds": seconds, "fastest": seconds,
         "slowest": 2 * seconds, "relative_time": 1.0, "read": read}
        for name, seconds in (("PyTorch DataLoader", 0.5), ("stream", 1.0))
    ]  # fmt: skip
    monkeypatch.setattr(protocol, "measure", lambda *_: rows)
    arguments = ["--manual-dir", settings["dataset"][0], "--data-config", "covid"]
    monkeypatch.setattr(sys, "argv", ["input_pipeline", *arguments, "--implementations", "stream"])
    input_pipeline.main()
    assert "| PyTorch DataLoader | 14 | 7 | 14 | 1 |" in capsys.readouterr().out
