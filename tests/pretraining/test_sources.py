"""Labelled images, wherever they come from, and what is said of those that cannot be used."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from captioner.errors import DataError
from captioner.pretraining.sources import read_known, read_labelled, read_unlabelled
from tests.pretraining.known import drawn, write_cifar10, write_mnist
from tests.pretraining.shapes import CLASSES, draw_folder


def test_a_folder_of_classes_is_that_of_torchvision(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "shapes", each=3)
    ours, theirs = read_labelled(folder), datasets.ImageFolder(str(folder))
    assert list(ours.classes) == theirs.classes
    found = dict(zip(map(str, ours.images), ours.labels.tolist(), strict=True))
    assert found == dict(theirs.samples)
    first = np.asarray(ours.open(0, min_size=16))
    assert np.array_equal(first, np.asarray(Image.open(ours.images[0])))


def test_names_depend_on_nothing_outside_the_folder(tmp_path: Path) -> None:
    """What is held out for validation depends on them, and a resumed run must hold out the same."""
    folder = draw_folder(tmp_path / "train", each=2)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "photos")
    expected = [f"{kind}/{number}.png" for kind in CLASSES for number in range(2)]
    rows = "".join(f"{name},{name.partition('/')[0]}\n" for name in expected)
    for root in (folder, moved):
        assert read_labelled(root).names() == read_unlabelled(root).names() == expected
        assert read_labelled(root).chosen([1, 3]).names() == [expected[1], expected[3]]
        (root / "labels.csv").write_text(f"image,label\n{rows}")
        assert read_labelled(root / "labels.csv").names() == expected


def test_a_table_says_the_same(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "shapes", each=2)
    whole = read_labelled(folder)
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in whole.images]
    (tmp_path / "labels.csv").write_text("Image,Label,note\n" + ",\n".join(rows) + ",\n")
    table = read_labelled(tmp_path / "labels.csv", folder)
    assert table.classes == whole.classes
    assert table.labels.tolist() == whole.labels.tolist()
    assert list(table.images) == list(whole.images)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("image,caption\na.png,dog", r"no column 'label' in its first line; expected image,label"),
        ("image;label\na.png;dog", "separated by semicolons"),
        ("image,label\na.png,dog", "1 of 1 images are missing"),
        ("image,label\n0.png,", r"line 2: the field 'label' is empty"),
        ("image,label\n0.png,dog\n1.png,dog", "all images are of the class 'dog'"),
        ("image,label\n0.png,a hot,dog", "enclose a label with commas"),
        ("image,label\n", "no labelled images"),
        ("image,label\n0.png,dog\n1.png,cat", "the class 'cat' is not in the training images"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(rows: str, said: str, tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text(rows)
    classes = ["dog", "bird"] if "cat" in rows else None
    with pytest.raises(DataError, match=said):
        read_labelled(tmp_path / "labels.csv", classes=classes)


def test_photos_in_no_folder_of_a_class_are_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "shapes", each=1)
    Image.new("RGB", (8, 8)).save(folder / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png is not in a class folder; expected .*class"):
        read_labelled(folder)
    assert len(read_unlabelled(folder)) == 4
    with pytest.raises(DataError, match="cannot be read"):
        read_labelled(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in it"):
        read_unlabelled(tmp_path / "empty")


def test_mnist_has_its_digits_and_their_names(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=6, test=3)
    images, labels = drawn(6, 28, seed=0)
    train = read_known("mnist", tmp_path, train=True)
    assert train.classes[:3] == ("zero", "one", "two")
    assert train.labels.tolist() == labels.tolist()
    assert np.array_equal(np.asarray(train.open(4, 28)), images[4])
    assert len(read_known("mnist", tmp_path, train=False)) == 3


def test_cifar10_has_its_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, each=3, monkeypatch=monkeypatch)
    train = read_known("cifar10", tmp_path, train=True)
    assert (len(train), train.classes[9]) == (15, "truck")
    assert np.array_equal(np.asarray(train.open(4, 32)), drawn(3, 32, seed=1)[0][1])


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_a_data_set_that_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no complete .*--data\.download=true"):
        read_known(name, tmp_path, train=True)
