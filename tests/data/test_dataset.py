"""Examples and batches: randomness depends only on seed, epoch and image; captions stay true."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from captioner.annotations.records import Record
from captioner.data.dataset import (
    Augmentation,
    CaptionDataset,
    Example,
    Features,
    collate,
    speaks_of_sides,
)
from captioner.errors import ConfigError
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import END, PAD, START

SIZE = 16
PREPROCESSING = Preprocessing(size=SIZE)
ALL = Augmentation(crop=0.5, flip=True, color=0.3)
COUNTS = (3, 1, 7, 5, 2, 6)  # captions of each image


def picture(seed: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("images")
    for index in range(len(COUNTS)):
        picture(index).save(folder / f"{index}.png")
    return [Record(i, folder / f"{i}.png", ("A dog.",) * count) for i, count in enumerate(COUNTS)]


def ids(counts: Sequence[int] = COUNTS) -> list[list[list[int]]]:
    """Captions of different lengths, each of a word of its own."""
    return [
        [[START, *[100 * i + k + 4] * (k + 1), END] for k in range(count)]
        for i, count in enumerate(counts)
    ]


def make_dataset(records: Sequence[Record], **options: object) -> CaptionDataset:
    return CaptionDataset(records, ids(), PREPROCESSING, **options)


def same(a: Example, b: Example) -> bool:
    return np.array_equal(a.image, b.image) and a[1:] == b[1:]


# --- Randomness ---


def test_examples_depend_on_seed_epoch_and_index_alone(records: list[Record]) -> None:
    options = {"augmentation": ALL, "captions_per_image": 2}
    dataset, again = (make_dataset(records, seed=3, **options) for _ in range(2))
    expected = [dataset[4, index] for index in range(len(dataset))]
    np.random.seed(1)
    torch.manual_seed(1)
    for index in (5, 0, 3, 3, 1):
        assert same(again[4, index], expected[index])
    for seed, epoch in ((4, 4), (3, 5)):
        other = make_dataset(records, seed=seed, **options)
        assert not any(
            np.array_equal(other[epoch, i].image, expected[i].image) for i in range(len(other))
        )


def test_images_of_the_same_content_are_varied_differently(records: list[Record]) -> None:
    dataset = make_dataset([records[0]] * len(COUNTS), augmentation=ALL)
    assert len({dataset[0, index].image.tobytes() for index in range(len(dataset))}) == len(COUNTS)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(records: list[Record], workers: int) -> None:
    dataset = make_dataset(records, augmentation=ALL, captions_per_image=2)
    keys = [(1, index) for index in range(len(COUNTS))]
    alone, shared = (
        list(DataLoader(dataset, 2, sampler=keys, collate_fn=collate, num_workers=n))
        for n in (0, workers)
    )
    assert len(alone) == len(shared) == 3
    for a, b in zip(alone, shared, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(a[:4], b[:4], strict=True))


# --- Augmentation ---


def test_without_augmentation_images_are_only_preprocessed(records: list[Record]) -> None:
    for options in ({}, {"augmentation": Augmentation()}):
        dataset = make_dataset(records, **options)
        for index in range(len(dataset)):
            example = dataset[0, index]
            assert np.array_equal(example.image, np.asarray(PREPROCESSING.fit(picture(index))))
            assert example.record == index


def seen(captions: tuple[str, ...], path: Path, epochs: int = 40) -> Counter[str]:
    """How often an image is shown as it is and mirrored."""
    plain = np.asarray(PREPROCESSING.fit(picture(0)))
    shown = {plain.tobytes(): "plain", plain[:, ::-1].tobytes(): "mirrored"}
    record = Record(0, path, captions)
    dataset = CaptionDataset(
        [record], [[[1, 2]]], PREPROCESSING, augmentation=Augmentation(flip=True)
    )
    return Counter(shown[dataset[epoch, 0].image.tobytes()] for epoch in range(epochs))


def test_half_of_the_images_are_mirrored(records: list[Record]) -> None:
    counts = seen(("A dog.", "A bright room with leftover pizza."), records[0].path, epochs=400)
    assert counts.total() == 400
    assert 160 < counts["mirrored"] < 240  # four standard deviations


def test_images_whose_captions_speak_of_sides_are_not_mirrored(records: list[Record]) -> None:
    assert seen(("A dog.", "A cat on the left of a dog."), records[0].path) == {"plain": 40}


@pytest.mark.parametrize(
    ("caption", "speaks"),
    [
        ("A dog to the left of a cat.", True),
        ("Right: a dog", True),
        ("LEFT", True),
        ("a dog, left, and a cat", True),
        ("in the upper-left corner", True),
        ("the right-hand side", True),
        ("a left handed, righthanded or lefthand player", True),
        ("the rightmost and the leftmost", True),
        ("they walk leftwards", True),
        ("A plate of leftover pizza; leftovers", False),
        ("a bright, brightly lit, upright copyright of frightened wrights", False),
        ("theft at a cleft", False),
        ("A dog.", False),
        ("", False),
    ],
)
def test_captions_that_speak_of_sides_are_told_by_their_words(caption: str, speaks: bool) -> None:
    assert speaks_of_sides([caption]) is speaks
    assert speaks_of_sides(["A dog.", caption, "A cat."]) is speaks


@settings(deadline=None)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    smallest=st.floats(0.05, 0.999),
    seed=st.integers(0, 2**32),
)
def test_crops_are_parts_of_the_image_of_allowed_size_and_aspect(
    width: int, height: int, smallest: float, seed: int
) -> None:
    grid = np.zeros((height, width, 3), np.uint8)
    grid[:, :, 0], grid[:, :, 1] = (
        np.arange(width),
        np.arange(height)[:, None],
    )  # each pixel says where it is
    crop = Augmentation(crop=smallest)(
        Image.fromarray(grid), np.random.default_rng(seed), may_flip=False
    )
    pixels = np.asarray(crop)
    left, top = (int(value) for value in pixels[0, 0, :2])
    assert np.array_equal(pixels, grid[top : top + crop.height, left : left + crop.width])
    # The ideal sides are rounded to whole pixels, each by half a pixel at most.
    assert (crop.width + 0.5) * (crop.height + 0.5) >= smallest * width * height
    assert (crop.width + 0.5) / (crop.height - 0.5) >= 3 / 4 * width / height
    assert (crop.width - 0.5) / (crop.height + 0.5) <= 4 / 3 * width / height


def test_crops_vary_over_all_shares_and_places() -> None:
    grid = np.zeros((90, 120, 3), np.uint8)
    grid[:, :, 0], grid[:, :, 1] = np.arange(120), np.arange(90)[:, None]
    rng, augmentation = np.random.default_rng(0), Augmentation(crop=0.3)
    crops = [
        np.asarray(augmentation(Image.fromarray(grid), rng, may_flip=False)) for _ in range(300)
    ]
    shares = np.array([crop.shape[0] * crop.shape[1] for crop in crops]) / grid[:, :, 0].size
    assert shares.min() < 0.35
    assert shares.max() > 0.9
    for channel, last in ((0, 119), (1, 89)):
        assert {crop[0, 0, channel] for crop in crops} > {0, 5, 10}
        assert any(crop[-1, -1, channel] == last for crop in crops)


def test_colours_change_within_bounds() -> None:
    gray, rng = (
        Image.new("RGB", (4, 4), (100, 100, 100)),
        np.random.default_rng(0),
    )  # only brightness shows on gray
    values = {
        int(np.asarray(Augmentation(color=0.2)(gray, rng, may_flip=True))[0, 0, 0])
        for _ in range(300)
    }
    assert min(values) in range(79, 84)
    assert max(values) in range(117, 122)
    before = np.asarray(gray)
    assert (before == 100).all()


@pytest.mark.parametrize(
    "options", [{"crop": 0}, {"crop": 1.1}, {"crop": -1}, {"color": 1}, {"color": -0.1}]
)
def test_impossible_augmentations_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a crop above 0"):
        Augmentation(**options)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    dataset = CaptionDataset(
        [Record(0, tmp_path / "absent.png", ("A dog.",))], [[[1, 2]]], PREPROCESSING
    )
    example = dataset[0, 0]
    assert example.image is None
    assert len(example.unreadable) == 1
    assert "absent.png" in example.unreadable[0]


def test_the_next_image_takes_the_place_of_one_that_cannot_be_read(
    records: list[Record], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no JPEG")
    broken = [
        *records[:4],
        replace(records[4], path=damaged),
        replace(records[5], path=tmp_path / "absent.png"),
    ]
    dataset = make_dataset(broken, substitute=True)
    example, first = dataset[0, 4], dataset[0, 0]
    assert same(example._replace(unreadable=()), first)
    assert [str(damaged) in example.unreadable[0], "absent.png" in example.unreadable[1]] == [
        True,
        True,
    ]
    batch = collate([dataset[0, 4], dataset[0, 1]])
    assert batch.indices.tolist() == [0, 1]
    assert len(batch.unreadable) == 2


def test_without_a_substitute_a_batch_goes_without_the_image(
    records: list[Record], tmp_path: Path
) -> None:
    broken = [replace(record, path=tmp_path / "absent.png") for record in records[:2]]
    dataset = make_dataset([*broken, *records[2:]])
    assert collate([dataset[0, i] for i in range(4)]).indices.tolist() == [2, 3]
    empty = collate([dataset[0, i] for i in range(2)])
    assert len(empty.indices) == len(empty.inputs) == len(empty.captions) == 0
    assert len(empty.unreadable) == 2


# --- Captions ---


def test_at_most_so_many_captions_of_an_image_are_used_and_each_in_some_epoch(
    records: list[Record],
) -> None:
    used: list[set[tuple[int, ...]]] = [set() for _ in COUNTS]
    dataset = make_dataset(records, captions_per_image=3)
    for epoch in range(30):
        for index, count in enumerate(COUNTS):
            chosen = dataset[epoch, index].captions
            captions = {tuple(caption) for caption in chosen}
            assert len(captions) == len(chosen) == min(count, 3)
            used[index] |= captions
    assert used == [{tuple(caption) for caption in captions} for captions in ids()]


def test_captions_are_drawn_by_their_weight_and_then_count_alike(records: list[Record]) -> None:
    """Image 0 has the weights 6, 3, 1: in 10 epochs, 6, 3 and 1 draws, each weighing their mean."""
    weights = [tuple([6.0, 3.0, 1.0] * 3)[:count] for count in COUNTS]
    dataset = make_dataset(records, captions_per_image=1, weights=weights)
    drawn: Counter[int] = Counter()
    for epoch in range(2000):
        example = dataset[epoch, 0]
        assert example.weights == [pytest.approx(10 / 3)]
        drawn[ids()[0].index(example.captions[0])] += 1
    assert [drawn[place] / 2000 for place in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.05)


def test_captions_keep_their_weights_where_all_are_used(records: list[Record]) -> None:
    weights = [tuple(1 / (place + 1) for place in range(count)) for count in COUNTS]
    dataset = make_dataset(records, captions_per_image=7, weights=weights)
    batch = collate([dataset[0, index] for index in range(len(COUNTS))])
    for index, rows, own in zip(batch.indices, batch.captions, batch.weights, strict=True):
        for row, weight in zip(rows.tolist(), own.tolist(), strict=True):
            words = [word for word in row if word != PAD]
            expected = weights[index][ids()[index].index(words)] if words else 0
            assert weight == pytest.approx(expected)


# --- Repeated draws ---


def test_an_image_that_is_drawn_twice_in_an_epoch_is_augmented_and_captioned_anew(
    records: list[Record],
) -> None:
    dataset = make_dataset(records, captions_per_image=1, augmentation=Augmentation(crop=0.5))
    draws = [dataset[0, 0], *(dataset[0, 0, before] for before in range(1, 20))]
    assert len({draw.image.tobytes() for draw in draws}) == 20
    assert len({str(draw.captions) for draw in draws}) > 1
    assert same(dataset[0, 0, 3], draws[3])


# --- Features ---


def keep(folder: Path, features: np.ndarray) -> Features:
    """Features (views, N, L, D) in two files, the second view's and the others'."""
    views, count = features.shape[:2]
    rows = np.arange(views * count).reshape(views, count)
    places = np.stack([np.zeros_like(rows), rows], axis=2)
    places[1:2] = [[1, row] for row in range(count)]
    np.save(folder / "all.npy", features.reshape(-1, *features.shape[2:]))
    np.save(folder / "second.npy", features[1 % views])
    return Features([folder / "all.npy", folder / "second.npy"], places.astype(np.int32))


def test_features_take_the_place_of_images_one_view_at_random(tmp_path: Path) -> None:
    records = [Record(i, tmp_path / "absent.png", ("A dog.",)) for i in range(len(COUNTS))]
    features = (
        np.random.default_rng(0).normal(size=(3, len(COUNTS), 4, 5)).astype(np.float16)
    )  # (views, N, L, D)
    views: set[int] = set()
    dataset, again = (make_dataset(records, features=keep(tmp_path, features)) for _ in range(2))
    for epoch in range(10):
        for index in range(len(COUNTS)):
            image = dataset[epoch, index].image
            assert image.dtype == np.float16
            (view,) = [v for v in range(3) if np.array_equal(image, features[v, index])]
            views.add(view)
            assert same(dataset[epoch, index], again[epoch, index])
    assert views == {0, 1, 2}
    batch = collate([dataset[0, index] for index in (4, 1)])
    assert batch.inputs.shape == (2, 4, 5)


def test_from_some_epoch_on_images_take_the_place_of_features(
    records: list[Record], tmp_path: Path
) -> None:
    features = keep(tmp_path, np.zeros((1, len(COUNTS), 4, 5), np.float16))
    dataset = make_dataset(records, features=features, features_until=2)
    assert [dataset[epoch, 0].image.shape for epoch in range(4)] == [
        (4, 5),
        (4, 5),
        (SIZE, SIZE, 3),
        (SIZE, SIZE, 3),
    ]


# --- Batches ---


def test_a_batch_is_ordered_by_length_and_padded() -> None:
    images = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]
    batch = collate(
        [
            Example(images[0], [[1, 4, 2], [1, 5, 6, 2]], 10),
            Example(images[1], [[1, 2]], 11),
            Example(images[2], [[1, 7, 2], [1, 8, 9, 8, 2], [1, 2]], 12),
        ]
    )
    assert batch.indices.tolist() == [12, 10, 11]
    assert batch.captions.tolist() == [
        [[1, 8, 9, 8, 2], [1, 7, 2, 0, 0], [1, 2, 0, 0, 0]],
        [[1, 5, 6, 2, 0], [1, 4, 2, 0, 0], [0, 0, 0, 0, 0]],
        [[1, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    ]
    assert batch.captions.dtype == torch.int64
    assert batch.inputs.dtype == torch.uint8
    assert batch.inputs[:, 0, 0, 0].tolist() == [2, 0, 1]


captions_of_an_image = st.lists(st.lists(st.integers(3, 50), max_size=6), min_size=1, max_size=5)


@given(st.lists(captions_of_an_image, min_size=1, max_size=5))
def test_a_batch_holds_every_caption_of_its_images(texts: list[list[list[int]]]) -> None:
    examples = [
        Example(np.full((1, 1), i, np.float16), [[START, *words, END] for words in captions], i)
        for i, captions in enumerate(texts)
    ]
    before = [list(example.captions) for example in examples]
    batch = collate(examples)
    assert [
        example.captions for example in examples
    ] == before  # the data set's own lists stay as they are
    assert sorted(batch.indices.tolist()) == list(range(len(texts)))
    lengths = (batch.captions != PAD).sum(dim=2)  # (B, K)
    assert (lengths.diff(dim=1) <= 0).all()
    assert (lengths[:, 0].diff() <= 0).all()
    assert int(lengths.max()) == batch.captions.shape[2]
    assert bool(lengths[:, -1].any())  # no row of padding in every image
    for image, rows, index in zip(
        batch.inputs, batch.captions.tolist(), batch.indices.tolist(), strict=True
    ):
        assert float(image) == index
        kept = [tuple(word for word in row if word != PAD) for row in rows]
        assert Counter(row for row in kept if row) == Counter(map(tuple, before[index]))
