"""Cached features: computed once for the same circumstances, never found under others, whole or not there."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.data.annotations import Record
from captioner.data.dataset import Augmentation, CaptionDataset, collate
from captioner.data.features import cached_features
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(size=32)
FLIP = Augmentation(crop=0.5, flip=True)
COUNT = 5


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig("squeezenet1_1"), 32)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{index}.bmp")
    return [Record(i, folder / f"{i}.bmp", ("A dog.", "A cat.")) for i in range(COUNT)]


@pytest.fixture
def calls(encoder: Encoder) -> list[int]:
    """Gets the number of images of each call of the encoder."""
    sizes: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def views_of(
    records: list[Record],
    count: int = 2,
    preprocessing: Preprocessing = PREPROCESSING,
    augmentation: Augmentation = FLIP,
    seed: int = 0,
    captions: int = 2,
) -> list[CaptionDataset]:
    """The plain view and augmented ones, as training makes them."""
    return [
        CaptionDataset(
            records,
            [[[1, 2]] * captions] * len(records),
            preprocessing,
            augmentation=augmentation if view else None,
            seed=seed,
            epoch=view,
        )
        for view in range(count)
    ]


def load(dataset: CaptionDataset) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in DataLoader(dataset, 2, collate_fn=collate):
        yield batch.images, batch.indices


def test_features_are_those_of_the_encoder_in_each_view(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    views = views_of(records)
    features = cached_features(tmp_path / "cache", encoder.train(), views, load)
    assert encoder.training
    assert isinstance(features, np.memmap)
    assert not features.flags.writeable
    assert features.dtype == np.float16
    assert features.shape == (2, COUNT, encoder.regions, encoder.width)
    with torch.inference_mode():
        for view, dataset in enumerate(views):
            for index in range(COUNT):
                expected = encoder.eval()(torch.from_numpy(dataset[index][0])[None])[0].numpy()
                np.testing.assert_allclose(features[view, index], expected, rtol=2e-3, atol=1e-5)
    assert not np.array_equal(features[0], features[1])


def test_features_are_computed_once(encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path) -> None:
    first = cached_features(tmp_path / "deep" / "cache", encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT
    second = cached_features(tmp_path / "deep" / "cache", encoder.train(), views_of(records), load)
    assert sum(calls) == 2 * COUNT
    assert np.array_equal(first, second)
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 1


def test_only_what_features_depend_on_makes_new_ones(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    said = [replace(record, captions=("Something else, bright.",)) for record in records]
    for views in (views_of(records), views_of(said), views_of(records, captions=4)):
        cached_features(tmp_path / "cache", encoder, views, load)
    assert sum(calls) == 2 * COUNT


def speak_of_sides(records: list[Record]) -> list[Record]:
    return [replace(records[0], captions=("A dog on the left.",)), *records[1:]]


@pytest.mark.parametrize(
    "change",
    [
        lambda records: views_of(records, count=3),
        lambda records: views_of(records, count=1),
        lambda records: views_of(records, seed=1),
        lambda records: views_of(records, augmentation=replace(FLIP, crop=0.6)),
        lambda records: views_of(records, augmentation=replace(FLIP, flip=False)),
        lambda records: views_of(records, preprocessing=replace(PREPROCESSING, resize="center_crop")),
        lambda records: views_of(records, preprocessing=replace(PREPROCESSING, mean=(0.5, 0.5, 0.5))),
        lambda records: views_of(records[:-1]),
        lambda records: views_of(records[::-1]),
        lambda records: views_of(speak_of_sides(records)),  # they may not be mirrored
    ],
    ids=["more", "fewer", "seed", "crop", "flip", "resize", "mean", "one image less", "another order", "sides"],
)
def test_other_views_have_other_features(
    change: Callable[[list[Record]], list[CaptionDataset]],
    encoder: Encoder,
    records: list[Record],
    calls: list[int],
    tmp_path: Path,
) -> None:
    cached_features(tmp_path / "cache", encoder, views_of(records), load)
    calls.clear()
    views = change(records)
    features = cached_features(tmp_path / "cache", encoder, views, load)
    assert sum(calls) == len(views) * len(views[0])
    assert features.shape[:2] == (len(views), len(views[0]))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_other_weights_have_other_features(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    first = cached_features(tmp_path, encoder, views_of(records), load)
    with torch.no_grad():
        next(encoder.parameters())[0, 0, 0, 0] += 1
    second = cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 4 * COUNT
    assert not np.array_equal(first, second)


def test_other_grids_have_other_features(records: list[Record], tmp_path: Path) -> None:
    for grid in (1, 2):
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig("squeezenet1_1", grid=grid), 64)
        views = views_of(records, preprocessing=Preprocessing(size=64))
        assert cached_features(tmp_path, encoder, views, load).shape[2] == grid**2


def test_another_precision_has_other_features(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    cached_features(tmp_path, encoder, views_of(records), load)
    with torch.autocast("cpu", torch.bfloat16):
        cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 4 * COUNT


def test_an_image_that_was_replaced_is_encoded_anew(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    cached_features(tmp_path / "cache", encoder, views_of(records), load)
    path = records[2].path
    size, written = path.stat().st_size, path.stat().st_mtime_ns
    Image.new("RGB", (30, 40), "red").save(path)
    os.utime(path, ns=(written + 10**9, written + 10**9))
    assert path.stat().st_size == size  # only its time tells
    features = cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert sum(calls) == 4 * COUNT
    with torch.inference_mode():
        expected = encoder.eval()(torch.from_numpy(views_of(records)[0][2][0])[None])[0].numpy()
    np.testing.assert_allclose(features[0, 2], expected, rtol=2e-3, atol=1e-5)


def test_an_interrupted_computation_leaves_no_file(encoder: Encoder, records: list[Record], tmp_path: Path) -> None:
    def stop(dataset: CaptionDataset) -> Iterator[tuple[Tensor, Tensor]]:
        yield next(load(dataset))
        assert len(list((tmp_path / "cache").iterdir())) == 1  # it has begun
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "cache", encoder, views_of(records), stop)
    assert not list((tmp_path / "cache").iterdir())
    features = cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert np.abs(features).sum(axis=(2, 3)).all()
