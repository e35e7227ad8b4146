"""Cached features: computed once for the same circumstances, never found under others, whole or gone on with."""

import copy
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner.annotations.records import Record
from captioner.checkpoint import read_checkpoint
from captioner.data.dataset import CaptionDataset
from captioner.errors import DataError
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.preprocessing import Preprocessing
from captioner.training.distillation import Teachers
from captioner.training.feature_cache import FeatureCache, cached_features
from tests.training.features import COUNT, FLIP, PREPROCESSING, as_input, load, views_of
from tests.training.runs import full_disk


def test_features_are_those_of_the_encoder_in_each_view(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    views = views_of(records)
    features = cached_features(tmp_path / "cache", encoder.train(), views, load)
    assert encoder.training
    assert features.views == 2
    with torch.inference_mode():
        for view, dataset in enumerate(views):
            for index in range(COUNT):
                expected = encoder.eval()(as_input(dataset[view, index].image)[None])[0].numpy()
                assert features[view, index].dtype == np.float16
                np.testing.assert_allclose(features[view, index], expected, rtol=2e-3, atol=1e-5)
    assert not np.array_equal(features[0, 0], features[1, 0])
    again = pickle.loads(pickle.dumps(features))  # as a worker process gets it
    assert np.array_equal(again[1, 3], features[1, 3])
    assert len(pickle.dumps(features)) < 1000


def test_features_are_computed_once(encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path) -> None:
    first = cached_features(tmp_path / "deep" / "cache", encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT
    second = cached_features(tmp_path / "deep" / "cache", encoder.train(), views_of(records), load)
    assert sum(calls) == 2 * COUNT
    assert all(np.array_equal(first[0, index], second[0, index]) for index in range(COUNT))
    assert len(list((tmp_path / "deep" / "cache").glob("*.npy"))) == 1


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
    assert features.views == len(views)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_other_weights_have_other_features(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    first = cached_features(tmp_path, encoder, views_of(records), load)
    with torch.no_grad():
        next(encoder.parameters())[0, 0, 0, 0] += 1
    second = cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 4 * COUNT
    assert not np.array_equal(first[0, 0], second[0, 0])


def test_other_grids_have_other_features(records: list[Record], tmp_path: Path) -> None:
    for grid in (1, 2):
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig("squeezenet1_1", grid=grid), 64)
        views = views_of(records, preprocessing=Preprocessing(size=64))
        assert len(cached_features(tmp_path, encoder, views, load)[0, 0]) == grid**2


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
        expected = encoder.eval()(as_input(views_of(records)[0][0, 2].image)[None])[0].numpy()
    np.testing.assert_allclose(features[0, 2], expected, rtol=2e-3, atol=1e-5)


def compute(folder: Path, pause: float) -> None:
    """What another process does, as slowly as asked; see `start`."""
    torch.set_num_threads(1)  # the threads of the process that it was forked from aren't there
    torch.manual_seed(0)
    records = [Record(i, folder / "images" / f"{i}.bmp", ("A dog.",)) for i in range(COUNT)]

    def load_slowly(dataset: CaptionDataset, view: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in load(dataset, view):
            (folder / f"{os.getpid()}.began").touch()
            time.sleep(pause)
            yield batch

    cached_features(folder / "cache", Encoder(EncoderConfig("squeezenet1_1"), 32), views_of(records), load_slowly)


def start(folder: Path, pause: float) -> ForkProcess:
    """Let another process compute features."""
    process = multiprocessing.get_context("fork").Process(target=compute, args=(folder, pause))
    process.start()
    return process


def test_of_several_processes_one_computes_and_a_killed_one_leaves_the_way_free(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    killed = start(tmp_path, 60)
    while not list(tmp_path.glob("*.began")):
        assert killed.is_alive()
        time.sleep(0.05)
    others = [start(tmp_path, 0) for _ in range(2)]
    time.sleep(1)
    assert not list(tmp_path.glob("cache/*.npy"))
    killed.kill()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert len(list(tmp_path.glob("*.began"))) == 2, "the killed one, and one of the others"
    assert len(list(tmp_path.glob("cache/*.npy"))) == 1
    assert not list(tmp_path.glob("cache/*.tmp"))


def test_images_that_were_left_out_have_no_features(encoder: Encoder, records: list[Record], tmp_path: Path) -> None:
    records[1].path.write_text("no image")
    dataset = CaptionDataset(
        records, [[[1, 2]]] * COUNT, PREPROCESSING, features=cached_features(tmp_path, encoder, views_of(records), load)
    )
    assert dataset[0, 0].image is not None
    assert dataset[0, 1].image is None
    assert dataset[0, 1].unreadable == (f"{records[1].path}: could not be read when its features were computed",)


def test_a_disk_without_room_is_refused_before_anything_is_computed(records: list[Record], tmp_path: Path) -> None:
    enormous = Encoder(EncoderConfig("squeezenet1_1"), 32)
    enormous.regions = 10**12
    views = views_of(records)
    enormous.register_forward_pre_hook(lambda module, inputs: pytest.fail("computed all the same"))
    with pytest.raises(DataError, match=r"need .* GB, .* GB are free"):
        cached_features(tmp_path, enormous, views, load)


def test_a_disk_that_becomes_full_leaves_nothing_and_says_so(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    with full_disk(3000), pytest.raises(DataError, match=r"features cannot be written \(File too large\)"):
        cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert not list((tmp_path / "cache").glob("*.npy")) and not list((tmp_path / "cache").glob("*.tmp"))


# --- As training hands it to the data ---


def test_images_to_train_on_have_the_teachers_features_beside_the_models_own(
    checkpoint_folder: Path, records: list[Record], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(checkpoint_folder)
    teachers = Teachers([checkpoint_folder], checkpoint.vocabulary, checkpoint.preprocessing)
    teacher = teachers.models[0].encoder
    own = copy.deepcopy(teacher)
    with torch.no_grad():
        next(own.parameters()).mul_(1.5)
    views = views_of(records, preprocessing=checkpoint.preprocessing)
    cache = FeatureCache(own, teachers=teachers)
    trained = cache.compute(views, load, folder=tmp_path / "cache", training=True)
    validated = cache.compute(views[:1], load, folder=tmp_path / "cache", training=False)
    assert (trained.views, validated.views) == (2, 1)
    pixels = as_input(views[0][0, 3].image)[None]
    with torch.inference_mode():
        seen = [encoder.eval()(pixels)[0].numpy() for encoder in (own, teacher)]
    np.testing.assert_allclose(trained[0, 3], np.concatenate(seen, axis=1), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(validated[0, 3], seen[0], rtol=2e-3, atol=1e-5)


def test_the_encoder_runs_in_the_precision_of_training(encoder: Encoder, records: list[Record], tmp_path: Path) -> None:
    views = views_of(records)
    cache = FeatureCache(encoder, precision=lambda: torch.autocast("cpu", torch.bfloat16))
    features = cache.compute(views, load, folder=tmp_path, training=True)
    with torch.autocast("cpu", torch.bfloat16):
        again = cached_features(tmp_path, encoder, views, load)
    assert features.path == again.path
    assert features.path != cached_features(tmp_path, encoder, views, load).path
