"""Films of one's own: what their masks' values mean, and which split each film is in."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from experiments.configuration import Configuration
from experiments.films import load
from jaxseg.data.arrays import films_from_folders
from jaxseg.data.films import read_classes, read_mask
from jaxseg.data.folders import load_folders, read_groups
from jaxseg.errors import InputError

VALUES = np.array([[0, 150, 200], [250, 255, 7]], np.uint8)
CLASSES = ((150, 200), (250,))
LABELS = [[0, 1, 1], [2, 0, 0]]


def saved(picture, path):
    picture.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
def test_classes_are_told_apart_by_grey_whatever_the_mode(mode, tmp_path):
    # Pillow's grey palette has index v show grey v.
    path = saved(Image.fromarray(VALUES).convert(mode), tmp_path / "mask.png")
    labels = read_classes(path, CLASSES)
    assert labels.dtype == np.uint8
    assert labels.tolist() == LABELS


def test_in_a_palette_picture_the_index_counts_and_not_its_colour(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 250, 0, 0, 0, 0, 250, 9, 9, 9])
    labels = read_classes(saved(picture, tmp_path / "mask.png"), ((1,), (3, 9)))
    assert labels.tolist() == [[0, 1], [0, 2]]


def test_sixteen_bits_and_one_bit_are_classes_too(tmp_path):
    deep = Image.fromarray(np.array([[0, 1000], [65535, 1]], np.uint16))
    labels = read_classes(saved(deep, tmp_path / "deep.png"), ((65535,), (1000,)))
    assert labels.tolist() == [[0, 2], [1, 0]]
    flat = Image.fromarray(np.array([[True, False]]))
    assert read_classes(saved(flat, tmp_path / "flat.png"), ((255,),)).tolist() == [[1, 0]]


def test_a_coloured_mask_without_palette_is_refused(tmp_path):
    path = saved(Image.new("RGB", (4, 4), (255, 0, 0)), tmp_path / "red.png")
    with pytest.raises(InputError, match=r"red.png: is coloured"):
        read_classes(path, ((255,),))


@pytest.mark.parametrize(
    "read", [lambda path: read_classes(path, ((150,),)), lambda path: read_mask(path, (150,))]
)
def test_a_jpeg_cannot_name_classes(read, tmp_path):
    picture = Image.fromarray(np.full((8, 8), 150, np.uint8))
    with pytest.raises(InputError, match=r"mask\.jpg: JPEG changes grey values"):
        read(saved(picture, tmp_path / "mask.jpg"))
    assert read(saved(picture, tmp_path / "mask.png")).all()
    assert read_mask(tmp_path / "mask.jpg").all()


@pytest.fixture
def folders(tmp_path):
    """Sixty films of noise, no two alike, but f3 twice by its bytes and f5 by its looks."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        small = Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8))
        film = small.resize((40, 30), Image.Resampling.BICUBIC)
        film.save(images / f"f{i}.png")
        if i == 5:
            lighter = np.asarray(film).astype(np.int32) + 2
            Image.fromarray(lighter.clip(0, 255).astype(np.uint8)).save(images / "like5.png")
        mask = Image.fromarray(rng.choice(VALUES.ravel(), (18, 24)).astype(np.uint8))
        mask.save(masks / f"f{i}.png")
    (images / "again3.png").write_bytes((images / "f3.png").read_bytes())
    for copy, original in (("again3", "f3"), ("like5", "f5")):
        (masks / f"{copy}.png").write_bytes((masks / f"{original}.png").read_bytes())
    (images / "f3.txt").write_text("a note beside its film")
    return images, masks


def test_labels_are_the_masks_classes_resized_to_the_nearest(folders):
    own = load_folders(*folders, size=16, classes=CLASSES)
    assert own.arrays.ids[:3] == ["again3", "f0", "f1"]
    for index, name in enumerate(own.arrays.ids):
        with Image.open(folders[1] / f"{name}.png") as mask:
            values = np.asarray(mask)
            small = np.asarray(mask.resize((16, 16), Image.Resampling.NEAREST))
        for found, seen in ((own.arrays.masks[index], values), (own.arrays.labels[index], small)):
            np.testing.assert_array_equal(found, np.isin(seen, (150, 200)) + 2 * (seen == 250))


def test_films_are_split_by_the_hash_of_their_groups_first_film(folders):
    own = load_folders(*folders, size=8, classes=CLASSES)
    groups = dict(zip(own.arrays.ids, own.arrays.groups, strict=True))
    assert groups == {
        name: {"f3": "again3", "like5": "f5"}.get(name, name) for name in own.arrays.ids
    }
    for group, split in zip(own.arrays.groups, own.arrays.split, strict=True):
        content = (folders[0] / f"{group}.png").read_bytes()
        share = int(hashlib.sha256(content).hexdigest()[:16], 16) / 16**16
        assert split == ("train" if share < 0.7 else "validation" if share < 0.8 else "test")
    assert set(own.arrays.split) == {"train", "validation", "test"}


def test_the_split_depends_on_neither_size_nor_preprocessing_nor_classes(folders):
    own = load_folders(*folders, size=8, classes=CLASSES)
    other = load_folders(*folders, size=20, preprocessing="gamma", film_resize="nearest")
    assert own.arrays.split == other.arrays.split
    assert own.fingerprint == other.fingerprint


def test_pictures_that_share_an_outline_need_a_nearer_limit(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:64, :64]
    field = (rows - 29) ** 2 + 1.1 * (columns - 33) ** 2 + rows * columns / 9 < 900
    for folder in (images, masks):
        folder.mkdir()
    for i in range(20):
        picture = np.where(field, 150 + rng.integers(-2, 3, field.shape), 0).astype(np.uint8)
        Image.fromarray(picture).save(images / f"{i}.png")
        Image.fromarray((255 * field).astype(np.uint8)).save(masks / f"{i}.png")
    (images / "copy.png").write_bytes((images / "3.png").read_bytes())
    (masks / "copy.png").write_bytes((masks / "3.png").read_bytes())
    assert len(set(load_folders(images, masks, size=8).arrays.groups)) == 1
    assert len(set(load_folders(images, masks, size=8, near=0).arrays.groups)) == 20
    with pytest.raises(InputError, match=r"21 films in 1 groups \(--near, --groups\) leave none"):
        load(Configuration(name="own", images=images, masks=masks, size=8))


def test_films_of_one_patient_share_the_split_of_the_first(folders, tmp_path):
    alone = load_folders(*folders, size=8)
    lines = [f"scans/f{i}.png,{' ' * (i % 3)}p{i % 10} ,x" for i in range(60)]
    table = tmp_path / "patients.csv"
    table.write_text("\ufefffilm,group,age\n" + "\n".join([*lines, "again3,p3,", "like5,q,"]))
    groups = read_groups(table)
    own = load_folders(*folders, size=8, groups=groups)
    split = dict(zip(own.arrays.ids, own.arrays.split, strict=True))
    for patient in range(10):
        members = {split[f"f{i}"] for i in range(patient, 60, 10)}
        share = int(hashlib.sha256(f"p{patient}".encode()).hexdigest()[:16], 16) / 16**16
        assert members == {"train" if share < 0.7 else "validation" if share < 0.8 else "test"}
    assert split["again3"] == split["f3"]
    assert split["like5"] == split["f5"]
    assert split != dict(zip(alone.arrays.ids, alone.arrays.split, strict=True))
    assert own.fingerprint != alone.fingerprint
    assert own.fingerprint == load_folders(*folders, size=9, groups=groups).fingerprint
    with pytest.raises(InputError, match=r"f7\.png: is in no group"):
        load_folders(*folders, size=8, groups={k: v for k, v in groups.items() if k != "f7"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("film,patient\na,1\n", "names the columns film and group"),
        ("", "names the columns film and group"),
        ("film,group\na,1\nb,\n", "row 2 lacks a film or a group"),
        ("film,group\na,1\nb\n", "row 2 lacks a film or a group"),
        ("film,group\na.png,1\na,1\n", "a is there twice"),
        ("film,group\na,P1\nb,p1\n", "P1 and p1 differ in case alone"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_table_of_groups_that_will_not_do_is_named(text, words, tmp_path):
    path = tmp_path / "groups.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words):
        read_groups(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_groups(tmp_path / "none.csv")


def test_the_fingerprint_is_of_names_films_and_masks(folders):
    prints = {load_folders(*folders, size=8).fingerprint}
    images, masks = folders
    Image.new("L", (24, 18), 255).save(masks / "f1.png")
    prints.add(load_folders(*folders, size=8).fingerprint)
    Image.new("L", (24, 18), 3).save(images / "f1.png")
    prints.add(load_folders(*folders, size=8).fingerprint)
    for folder in folders:
        (folder / "f1.png").rename(folder / "g1.png")
    prints.add(load_folders(*folders, size=8).fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("size", "right"), [((21, 28), True), ((19, 26), True), ((32, 32), True), ((40, 30), False)]
)
def test_a_mask_of_other_proportions_than_its_film_is_refused(size, right, folders):
    # The films have 40 x 30 pixels, of which 26 x 19 is a size rounded.
    images, masks = folders
    Image.new("L", size[::-1], 255).save(masks / "f1.png")
    if right:
        load_folders(images, masks, size=8)
        return
    with pytest.raises(InputError, match=r"f1\.png: 40 x 30 pixels, its mask 30 x 40"):
        load_folders(images, masks, size=8)


def test_folders_without_an_object_teach_nothing(folders):
    images, masks = folders
    for path in masks.iterdir():
        Image.new("L", (24, 18)).save(path)
    with pytest.raises(InputError, match="every mask is empty"):
        load_folders(images, masks, size=8)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Image.new("RGB", (4, 4), (255, 0, 0)), "is coloured"),
        (Image.new("RGB", (4, 4), (0, 200, 100)).convert("P"), "is coloured"),
        (Image.fromarray(np.dstack([np.zeros((4, 4, 3)), 255 * np.eye(4)]).astype(np.uint8)),
         "is black wherever it is not transparent"),
        (Image.fromarray(np.dstack([np.zeros((4, 4)), 255 * np.eye(4)]).astype(np.uint8), "LA"),
         "is black wherever it is not transparent"),
    ],
)  # fmt: skip
def test_a_mask_whose_object_cannot_be_told_by_its_grey_is_refused(picture, words, tmp_path):
    with pytest.raises(InputError, match=rf"mask\.png: {words}"):
        read_mask(saved(picture, tmp_path / "mask.png"))


@pytest.mark.parametrize("kind", ["nearly grey", "green is named", "an empty corner"])
def test_a_mask_whose_object_can_be_told_is_read(kind, tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 255
    values = None
    if kind == "nearly grey":
        pixels[2:5, 2:5, :3] = 255, 255, 245
    elif kind == "green is named":
        pixels[2:5, 2:5, 1] = 255
        values = (150,)
    else:
        pixels[0, 0, 3] = 0
    mask = read_mask(saved(Image.fromarray(pixels), tmp_path / "mask.png"), values)
    assert mask.sum() == (0 if kind == "an empty corner" else 9)


def test_a_class_that_no_mask_has_is_named(folders):
    with pytest.raises(InputError, match=r"masks: no mask holds any of the mask values 8, 9"):
        films_from_folders(*folders, size=8, classes=(*CLASSES, (8, 9)))
