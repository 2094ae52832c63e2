"""Folders of images and masks, compared with what Pillow and NumPy read."""

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.arrays import MaskFiles
from jaxseg.data.folders import load_folders
from jaxseg.data.images import IGNORED
from jaxseg.data.splits import SPLITS
from jaxseg.data.tables import ImageTable, read_table
from jaxseg.errors import DataWarning, InputError
from tests.dicom_file import write_dicom

VALUES = np.array([0, 150, 200, 250], np.uint8)
CLASSES = ((150, 200), (250,))


def noise(seed, height=30, width=40, channels=()):
    """A smooth random image. No two are near-duplicates."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, *channels), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def mask(seed, height=18, width=24, values=VALUES):
    return Image.fromarray(np.random.default_rng((seed, 1)).choice(values, (height, width)))


@pytest.fixture
def folders(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    return images, masks


def fill(folders, names):
    for seed, name in enumerate(names):
        noise(seed).save(folders[0] / f"{name}.png")
        mask(seed).save(folders[1] / f"{name}.png")
    return folders


def copy_pair(folders, name, copy):
    for folder in folders:
        shutil.copy(folder / f"{name}.png", folder / f"{copy}.png")


def read(path, *, mode=None, size=None, resampling=Image.Resampling.BILINEAR):
    with Image.open(path) as image:
        image = image.convert(mode) if mode else image
        return np.asarray(image.resize((size, size), resampling) if size else image)


def by_hash(text: bytes) -> str:
    fraction = int(hashlib.sha256(text).hexdigest()[:16], 16) / 16**16
    return "train" if fraction < 0.7 else "validation" if fraction < 0.8 else "test"


def group_name(split, prefix="p"):
    """A name whose hash stands for a split."""
    names = (f"{prefix}{i}" for i in itertools.count())
    return next(name for name in names if by_hash(name.encode()) == split)


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
@pytest.mark.parametrize("label_size", [None, 24])
def test_color_classes_ignored_pixels_and_a_table_load_as_pillow_and_numpy_read_them(
    resize, label_size, folders, tmp_path
):
    size, files = 16, {"s1": "tif", "s2": "bmp", "s10": "png", "b": "png", "a": "TIFF"}
    patients = {"s1": "p1", "s2": "p2", "s10": "p1", "b": "p3", "a": "p2"}
    split = {"p1": "test", "p2": "train", "p3": "validation"}
    rows = ["Image; Group ;Split;age"]
    for seed, (name, suffix) in enumerate(files.items()):
        height, width = (20 + 10 * seed, 30)
        noise(seed, height, width, (3,)).save(folders[0] / f"{name}.{suffix}")
        values = np.array([0, 1, 2, 5, 9, 255], np.uint8)
        mask(seed, 2 * height, 2 * width, values).save(folders[1] / f"{name}.png")
        rows.append(f"scans/{name}.{suffix}; {patients[name]};{split[patients[name]].upper()};9")
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-16")
    done = []
    arrays, fingerprint, skipped = load_folders(
        *folders, size=size, label_size=label_size, channels=3, classes=[[1], [5, 2], [9]],
        ignore=[255], table=read_table(tmp_path / "table.csv"), near_duplicate_bits=None,
        resize=resize, progress=lambda *counts: done.append(counts),
    )  # fmt: skip
    ids = ["a", "b", "s1", "s2", "s10"]
    sampled = {"size": size, "resampling": Image.Resampling[resize.upper()]}
    images = [read(folders[0] / f"{name}.{files[name]}", **sampled) for name in ids]
    expected = {"images": np.stack(images), "labels": [], "where": []}
    assert len(arrays.masks) == len(ids)
    label_of = np.zeros(256, np.uint8)
    label_of[[1, 5, 2, 9, 255]] = 1, 2, 2, 3, 255
    for index, name in enumerate(ids):
        path = folders[1] / f"{name}.png"
        np.testing.assert_array_equal(arrays.masks[index], label_of[read(path)])
        assert arrays.mask_size(index) == read(path).shape
        values = read(path, size=label_size or size, resampling=Image.Resampling.NEAREST)
        expected["labels"].append(np.where(values == 255, 0, label_of[values]))
        expected["where"].append(values != 255)
    assert [*arrays.trained_on()] == [*expected]
    for name, array in arrays.trained_on().items():
        np.testing.assert_array_equal(array, np.array(expected[name]))
        assert array.dtype == (bool if name == "where" else np.uint8)
    assert arrays.ids == ids
    assert arrays.split == [split[patients[name]] for name in ids]
    assert arrays.groups == ["a", "b", "s1", "a", "s1"]
    assert arrays.classes == arrays.sources == [""] * 5
    assert (len(fingerprint), skipped, done) == (64, [], [(i, 5) for i in range(1, 6)])


def test_without_classes_values_above_127_are_object_and_255_is_not_ignored(folders):
    arrays = load_folders(*fill(folders, "abc"), size=8).arrays
    for index, name in enumerate("abc"):
        np.testing.assert_array_equal(arrays.masks[index], read(folders[1] / f"{name}.png") > 127)
    ignoring = load_folders(*folders, size=8, ignore=[250]).arrays
    assert set(np.unique(ignoring.masks[0])) == {0, 1, IGNORED}
    assert set(np.unique(ignoring.labels)) == {0, 1}
    assert ignoring.where is not None
    assert 0.5 < ignoring.where.mean() < 1


def test_masks_are_read_from_their_files_each_time_they_are_asked_for(folders):
    masks = load_folders(*fill(folders, "abc"), size=8, classes=CLASSES).arrays.masks
    assert isinstance(masks, MaskFiles)
    assert masks.sizes == [(18, 24)] * 3
    for name in "abc":
        mask(9).save(folders[1] / f"{name}.png")
    again = read(folders[1] / "a.png")
    for found in (masks[0], masks[-1], *masks):
        np.testing.assert_array_equal(found, np.isin(again, (150, 200)) + 2 * (again == 250))
    with pytest.raises(IndexError):
        masks[3]
    (folders[1] / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png: there is no such file"):
        masks[1]


@pytest.fixture
def many(folders):
    """Sixty images, of which f3 is there twice by its bytes and f5 by its appearance."""
    fill(folders, [f"f{i}" for i in range(60)])
    copy_pair(folders, "f3", "again3")
    copy_pair(folders, "f5", "like5")
    lighter = read(folders[0] / "f5.png").astype(int) + 2
    Image.fromarray(lighter.clip(0, 255).astype(np.uint8)).save(folders[0] / "like5.png")
    return folders


def test_a_group_is_split_by_the_content_of_its_first_image(many):
    arrays = load_folders(*many, size=8).arrays
    first = {"f3": "again3", "like5": "f5"}
    assert arrays.groups == [first.get(name, name) for name in arrays.ids]
    expected = [by_hash((many[0] / f"{group}.png").read_bytes()) for group in arrays.groups]
    assert arrays.split == expected
    assert set(expected) == set(SPLITS)


def test_a_group_of_a_table_is_split_by_its_name(many):
    names = [group_name(split, prefix) for split in SPLITS for prefix in "xyz"]
    of_copy, of_similar = group_name("test", "c"), group_name("test", "s")
    groups = {f"f{i}": names[i % 9] for i in range(60)}
    groups |= {"again3": of_copy, "like5": of_similar}
    arrays = load_folders(*many, size=8, table=ImageTable(groups, {})).arrays
    split = dict(zip(arrays.ids, arrays.split, strict=True))
    assert groups["f3"] == group_name("validation", "x")
    # Two groups with a copy of the same image are one, and the first image decides.
    decides = {groups["f3"]: of_copy, of_similar: groups["f5"]}
    for name, group in groups.items():
        assert split[name] == by_hash(decides.get(group, group).encode())
    assert (split["f12"], split["like5"]) == ("test", "validation")


def test_splits_and_fingerprint_depend_on_the_files_and_the_table_only(folders):
    names = [f"f{i}" for i in range(9)]
    plain = load_folders(*fill(folders, names), size=8)
    other = load_folders(*folders, size=20, classes=CLASSES, channels=3, preprocessing="gamma",
                         resize="nearest", label_size=9, ignore=[0])  # fmt: skip
    assert plain.arrays.split == other.arrays.split
    assert plain.arrays.groups == other.arrays.groups
    assert plain.fingerprint == other.fingerprint

    def changed(table=None):
        return load_folders(*folders, size=8, table=table).fingerprint

    prints = {plain.fingerprint, changed(ImageTable({name: f"p{name}" for name in names}, {}))}
    prints.add(changed(ImageTable({}, dict(zip(names, plain.arrays.split, strict=True)))))
    for folder, image in zip(folders, (noise(99), mask(99)), strict=True):
        image.save(folder / "f1.png")
        prints.add(changed())
    for folder in folders:
        (folder / "f1.png").rename(folder / "g1.png")
    assert len(prints | {changed()}) == 6


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("trial", range(5))
def test_three_groups_or_more_leave_no_split_empty(count, trial, folders):
    names = [f"i{i}" for i in range(2 * count)]
    groups = {name: f"{trial}-{i // 2}" for i, name in enumerate(names)}
    table = ImageTable(groups, {})
    arrays = load_folders(*fill(folders, names), size=4, table=table).arrays
    assert set(arrays.split) == set(SPLITS)
    assert arrays.split[::2] == arrays.split[1::2]


@pytest.mark.parametrize("splits", [["train"], ["train", "test"]])
def test_too_few_groups_for_a_validation_split_warn(splits, folders):
    groups = dict(zip("abcd", [*map(group_name, splits)] * 4, strict=False))
    with pytest.warns(DataWarning, match=f"for validation: 4 images in {len(splits)} groups"):
        found = load_folders(*fill(folders, "abcd"), size=8, table=ImageTable(groups, {}))
    assert found.arrays.split == (splits * 4)[:4]


@pytest.mark.parametrize("splits", [{}, {"a": "train", "b": "test"}])
def test_an_external_test_set_has_test_images_only_and_no_split_to_warn_about(splits, folders):
    copy_pair(fill(folders, "a"), "a", "b")
    table = ImageTable({}, splits)
    arrays = load_folders(*folders, size=8, test_only=True, table=table).arrays
    assert arrays.split == ["test", "test"]
    assert arrays.groups == ["a", "a"]


@pytest.mark.parametrize("cause", ["a group of the table", "identical images"])
def test_a_table_that_separates_the_images_of_a_group_warns(cause, folders):
    fill(folders, "abcd")
    groups = {}
    if cause == "identical images":
        copy_pair(folders, "a", "d")
    else:
        groups = {"a": "p", "b": "q", "c": "r", "d": "p"}
    splits: dict[str, str] = dict(zip("abcd", (*SPLITS, "test"), strict=True))
    with pytest.warns(DataWarning, match="separate the images of 1 groups, such as that of a"):
        found = load_folders(*folders, size=8, table=ImageTable(groups, splits))
    assert found.arrays.split == [*splits.values()]


def test_images_that_share_an_outline_need_a_smaller_distance(folders):
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:64, :64]
    field = (rows - 29) ** 2 + 1.1 * (columns - 33) ** 2 + rows * columns / 9 < 900
    for name in "abcdef":
        image = np.where(field, 150 + rng.integers(-2, 3, field.shape), 0).astype(np.uint8)
        Image.fromarray(image).save(folders[0] / f"{name}.png")
        Image.fromarray((255 * field).astype(np.uint8)).save(folders[1] / f"{name}.png")
    copy_pair(folders, "a", "copy")
    with pytest.warns(DataWarning, match="7 images in 1 groups"):
        load_folders(*folders, size=8)
    for bits in (0, None):
        groups = load_folders(*folders, size=8, near_duplicate_bits=bits).arrays.groups
        assert groups == ["a", "b", "c", "a", "d", "e", "f"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_images_are_found_in_a_folder_by_their_content(preamble, channels, folders):
    fill(folders, ["a", "b", "1.2.840.7"])
    (folders[0] / "1.2.840.7.png").unlink()
    stored = 16 * np.asarray(noise(7), np.uint16)
    path = write_dicom(folders[0] / "1.2.840.7", stored, WindowCenter=2048, WindowWidth=4096)
    if not preamble:
        path.write_bytes(path.read_bytes()[132:])
    arrays = load_folders(*folders, size=16, channels=channels).arrays
    assert arrays.ids == ["1.2.840.7", "a", "b"]
    expected = np.asarray(noise(7).resize((16, 16), Image.Resampling.BILINEAR))[..., None]
    np.testing.assert_allclose(arrays.images[0], np.repeat(expected, channels, axis=-1), atol=1)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_of_either_unicode_form_pair_with_each_other_and_the_table(forms, folders, tmp_path):
    fill(folders, ["a", "b"])
    of_image, of_mask = (unicodedata.normalize(form, "Müller") for form in forms)
    noise(2).save(folders[0] / f"{of_image}.png")
    mask(2).save(folders[1] / f"{of_mask}.png")
    for name in (of_image, of_mask):
        (tmp_path / "table.csv").write_text(f"image,group\n{name}.png,p\na,q\nb,r\n", "utf-8")
        table = read_table(tmp_path / "table.csv")
        arrays = load_folders(*folders, size=8, table=table).arrays
        assert arrays.ids == [unicodedata.normalize("NFC", "Müller"), "a", "b"]


def test_a_name_that_is_not_utf_8_loads(folders):
    fill(folders, "abc")
    for folder in folders:
        os.rename(folder / "a.png", os.fsencode(folder) + b"/caf\xe9.png")
    assert load_folders(*folders, size=8).arrays.ids == ["b", "c", r"caf\udce9"]


def test_masks_may_have_a_suffix_and_files_without_it_are_skipped_with_a_warning(folders):
    plain = load_folders(*fill(folders, "abc"), size=8)
    for name in "abc":
        (folders[1] / f"{name}.png").rename(folders[1] / f"{name}_mask.png")
    suffixed = load_folders(*folders, size=8, mask_suffix="_mask")
    assert suffixed.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(suffixed.arrays.labels, plain.arrays.labels)
    one = folders[0].parent / "one"
    shutil.copytree(folders[0], one)
    shutil.copytree(folders[1], one, dirs_exist_ok=True)
    together = load_folders(one, one, size=8, mask_suffix="_mask")
    assert together.fingerprint == plain.fingerprint
    noise(3).save(folders[1] / "a_preview.png")
    (folders[0] / "notes.txt").write_text("")
    with (
        pytest.warns(DataWarning, match=r"masks: skipped 1 .*: a_preview\.png"),
        pytest.warns(DataWarning, match=r"images: skipped 1 .*: notes\.txt"),
    ):
        load_folders(*folders, size=8, mask_suffix="_mask")


@pytest.fixture
def bad(folders):
    """Two good images and a bad file of each kind, and the error of each bad file."""
    images, masks = fill(folders, [*"abc", *(f"bad{i}" for i in range(9))])
    (masks / "bad0.png").unlink()
    (images / "bad1.png").unlink()
    (images / "bad2.png").write_bytes((images / "bad2.png").read_bytes()[:200])
    (masks / "bad3.png").write_bytes(b"")
    noise(0).save(images / "bad4.png", save_all=True, append_images=[noise(1)])
    (images / "bad5.png").unlink()
    (images / "bad5.png").symlink_to(images / "absent.png")
    mask(6, 40, 30).save(masks / "bad6.png")
    shutil.copy(images / "bad7.png", masks / "bad7.png")
    palette = Image.fromarray(np.eye(18, 24, dtype=np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 250, 250, 250])
    palette.save(masks / "bad8.png")
    # The color of index 1 is the 250 of the other masks.
    return [
        r"images/bad0\.png: has no mask in .*masks",
        r"masks/bad1\.png: has no image in .*images",
        r"images/bad2\.png: cannot be read",
        r"masks/bad3\.png: cannot be read",
        r"images/bad4\.png: holds 2 frames",
        r"images/bad5\.png: cannot be read \(No such file",
        r"images/bad6\.png: has 40 x 30 pixels but its mask 30 x 40",
        r"masks/bad7\.png: is the same file as its image",
        r"masks/bad8\.png: has the values 1, none of which is named",
        r"images/c\.png: is not in the table",
    ]


def test_all_bad_files_are_listed_at_once_or_skipped(bad, folders):
    splits = {"a": "train", "b": "validation"} | {f"bad{i}": "test" for i in range(9)}
    options = {"size": 8, "classes": CLASSES, "table": ImageTable({}, splits)}
    with pytest.raises(InputError, match=r"images: 10 files cannot be used:\n") as error:
        load_folders(*folders, **options)
    arrays, _, skipped = load_folders(*folders, **options, skip_bad=True)
    assert str(error.value).splitlines()[1:] == [f"  {line}" for line in skipped]
    assert len(skipped) == len(bad)
    for words in bad:
        assert sum(bool(re.search(words, line)) for line in skipped) == 1
    assert (arrays.ids, arrays.split) == (["a", "b"], ["train", "validation"])
    np.testing.assert_array_equal(arrays.images[0, ..., 0], read(folders[0] / "a.png", size=8))
    assert len(arrays.masks) == len(arrays.labels) == 2


def test_of_many_bad_files_twenty_are_listed_and_the_others_counted(folders):
    fill(folders, [f"i{i}" for i in range(23)])
    for path in folders[1].iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r": 23 files cannot be used:(\n  .*){20}\n  and 3 more$"):
        load_folders(*folders, size=4)
    with pytest.raises(InputError, match=r"no image can be used; the first: .*cannot be read"):
        load_folders(*folders, size=4, skip_bad=True)


@pytest.mark.parametrize(
    ("size", "fits"), [((21, 28), True), ((19, 26), True), ((32, 32), True), ((40, 30), False)]
)
def test_masks_may_differ_in_size_but_not_in_proportions(size, fits, folders):
    # The images have 40 x 30 pixels, and 26 x 19 is these proportions rounded.
    mask(0, *size).save(fill(folders, "abc")[1] / "a.png")
    if fits:
        assert load_folders(*folders, size=8).arrays.mask_size(0) == size
    else:
        with pytest.raises(InputError, match=r"a\.png: has 40 x 30 pixels but its mask 30 x 40"):
            load_folders(*folders, size=8)


@pytest.mark.parametrize("way", ["same", "relative", "link"])
def test_the_same_folder_for_images_and_masks_is_refused(way, folders, tmp_path):
    fill(folders, "abc")
    (tmp_path / "link").symlink_to(folders[0])
    other = {"same": folders[0], "relative": tmp_path / "masks/../images", "link": "link"}[way]
    with pytest.raises(InputError, match="images and masks are in the same folder"):
        load_folders(str(folders[0]), tmp_path / other, size=8)


def test_a_class_that_no_mask_has_is_named(folders):
    with pytest.raises(InputError, match=r"masks: no mask holds any of the values 8, 9"):
        load_folders(*fill(folders, "abc"), size=8, classes=(*CLASSES, (8, 9)))


@pytest.mark.parametrize("unnamed", [1, 40])
def test_a_few_pixels_of_unnamed_values_warn_and_more_are_refused(unnamed, folders):
    masks = fill(folders, "abc")[1]
    values = read(masks / "b.png").copy()
    values.ravel()[:unnamed] = 77
    Image.fromarray(values).save(masks / "b.png")
    objects = sum((read(masks / f"{name}.png") > 0).sum() for name in "abc")
    words = f"{unnamed / objects:.2%} of the object pixels .* such as 77 in b"
    if unnamed == 1:
        with pytest.warns(DataWarning, match=f"{words}; they count as background"):
            arrays = load_folders(*folders, size=8, classes=CLASSES).arrays
        assert arrays.masks[1][0, 0] == 0
    else:
        with pytest.raises(InputError, match=f"{words}. Masks that were anti-aliased"):
            load_folders(*folders, size=8, classes=CLASSES)
    load_folders(*folders, size=8, classes=CLASSES, background=None)
    load_folders(*folders, size=8, classes=CLASSES, background=(0, 77))


# Linux counts the memory of the parent process in ru_maxrss, but not in VmHWM.
MEASURE = """
import re, sys
from pathlib import Path
from jaxseg.data.folders import load_folders
arrays = load_folders(*sys.argv[1:], size=128).arrays
assert len(arrays.masks) == 200
assert all(arrays.masks[i].shape == (3000, 3000) and arrays.masks[i].any() for i in (0, 99, 199))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_hundred_masks_of_9_million_pixels_take_less_than_1_gb(folders):
    for seed in range(4):
        small = 255 * (np.random.default_rng(seed).random((30, 30)) < 0.4)
        large = np.kron(small, np.ones((100, 100))).astype(np.uint8)
        Image.fromarray(large).save(folders[1] / f"i{seed}.png", compress_level=1)
    for seed in range(200):
        noise(seed, 128, 128).save(folders[0] / f"i{seed}.png")
        if seed >= 4:
            shutil.copy(folders[1] / f"i{seed % 4}.png", folders[1] / f"i{seed}.png")
    command = [sys.executable, "-c", MEASURE, *map(str, folders)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    gigabytes = float(done.stdout)
    # At their own size, the masks would take 1.7 GiB.
    assert 0.05 < gigabytes < 1
