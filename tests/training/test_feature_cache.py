"""Cached features: computed once, never reused when stale, written atomically."""

import copy
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
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
from captioner.data.dataset import Augmentation, CaptionDataset
from captioner.data.sampling import Key
from captioner.data.views import ImageViews
from captioner.errors import DataError
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.preprocessing import Preprocessing
from captioner.training.distillation import Teachers
from captioner.training.feature_cache import FeatureCache, cached_features
from tests.training.runs import full_disk
from tests.training.views import COUNT, FLIP, PREPROCESSING, as_input, load, views_of


def test_features_are_those_of_the_encoder_in_each_view(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    views = views_of(records)
    features = cached_features(tmp_path / "cache", encoder.train(), views, load)
    assert encoder.training
    assert features.views == 2
    with torch.inference_mode():
        for view in range(2):
            for index in range(COUNT):
                expected = encoder.eval()(as_input(views[view, index].image)[None])[0].numpy()
                assert features[view, index].dtype == np.float16
                np.testing.assert_allclose(features[view, index], expected, rtol=2e-3, atol=1e-5)
    assert not np.array_equal(features[0, 0], features[1, 0])
    again = pickle.loads(pickle.dumps(features))  # as a worker process gets it
    assert np.array_equal(again[1, 3], features[1, 3])
    assert len(pickle.dumps(features)) < 1000


def test_features_are_computed_once(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    first = cached_features(tmp_path / "deep" / "cache", encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT
    second = cached_features(tmp_path / "deep" / "cache", encoder.train(), views_of(records), load)
    assert sum(calls) == 2 * COUNT
    assert all(np.array_equal(first[0, index], second[0, index]) for index in range(COUNT))


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        (
            lambda records: views_of(
                [replace(record, captions=("A bright thing.",) * 4) for record in records]
            ),
            0,
        ),
        (lambda records: views_of(records[::-1]), 0),
        (lambda records: views_of(records[1:3]), 0),
        (lambda records: views_of([replace(record, image_id="x") for record in records] * 2), 0),
        (lambda records: views_of(records, count=1, seed=9, augmentation=Augmentation()), 0),
        (lambda records: views_of(records, count=3), COUNT),
        (lambda records: views_of(records, seed=1), COUNT),
        (lambda records: views_of(records, augmentation=replace(FLIP, crop=0.6)), COUNT),
        (lambda records: views_of(records, augmentation=replace(FLIP, color=0.1)), COUNT),
        (
            lambda records: views_of(
                records, preprocessing=replace(PREPROCESSING, resize="center_crop")
            ),
            2 * COUNT,
        ),
        (
            lambda records: views_of(
                records, preprocessing=replace(PREPROCESSING, mean=(0.5, 0.5, 0.5))
            ),
            2 * COUNT,
        ),
    ],
    ids=[
        "captions",
        "order",
        "fewer",
        "twice",
        "plain",
        "more",
        "seed",
        "crop",
        "color",
        "resize",
        "mean",
    ],
)
def test_only_what_features_depend_on_is_computed(
    change: Callable[[list[Record]], ImageViews],
    computed: int,
    encoder: Encoder,
    records: list[Record],
    calls: list[int],
    tmp_path: Path,
) -> None:
    cached_features(tmp_path / "cache", encoder, views_of(records), load)
    calls.clear()
    views = change(records)
    features = cached_features(tmp_path / "cache", encoder, views, load)
    assert sum(calls) == computed
    assert features.views == views.count
    with torch.inference_mode():
        for view in range(views.count):
            for index in range(len(views)):
                expected = encoder.eval()(as_input(views[view, index].image)[None])[0].numpy()
                np.testing.assert_allclose(features[view, index], expected, rtol=2e-3, atol=1e-5)


def test_more_images_are_computed_alone_and_a_photo_that_is_there_twice_once(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    few = cached_features(tmp_path / "cache", encoder, views_of(records[1:3]), load)
    assert sum(calls) == 4
    all_ = cached_features(tmp_path / "cache", encoder, views_of([records[4], *records]), load)
    assert sum(calls) == 2 * COUNT
    for view in range(2):
        assert np.array_equal(few[view, 0], all_[view, 2]), (
            "as if they had been there from the beginning"
        )
        assert np.array_equal(all_[view, 0], all_[view, 5])


def test_captions_that_speak_of_sides_have_only_mirrored_views_computed_anew(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    flips = replace(FLIP, crop=1.0)
    views = views_of(records, count=4, augmentation=flips)
    before = cached_features(tmp_path, encoder, views, load)
    turned = sum(bool(views.facts(view, index)[-1]) for view in (1, 2, 3) for index in range(COUNT))
    assert 0 < turned < 3 * COUNT
    calls.clear()
    speaking = [replace(record, captions=("A dog on the left.",)) for record in records]
    after = cached_features(
        tmp_path, encoder, views_of(speaking, count=4, augmentation=flips), load
    )
    assert sum(calls) == turned
    for view in range(4):
        for index in range(COUNT):
            np.testing.assert_allclose(after[view, index], before[0, index], rtol=2e-3, atol=1e-5)
    cached_features(tmp_path, encoder, views, load)
    assert sum(calls) == turned, "both are kept"


def test_an_encoder_and_its_copy_in_half_floats_share_features(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    """As a checkpoint folder has it."""
    cached_features(tmp_path, encoder, views_of(records), load)
    encoder.load_state_dict(copy.deepcopy(encoder).half().state_dict())
    cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT


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
    with torch.autocast("cpu", torch.float16):
        cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 6 * COUNT


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
    assert sum(calls) == 2 * COUNT + 2, "that image alone"
    with torch.inference_mode():
        expected = encoder.eval()(as_input(views_of(records)[0, 2].image)[None])[0].numpy()
    np.testing.assert_allclose(features[0, 2], expected, rtol=2e-3, atol=1e-5)


def test_an_interrupted_computation_leaves_no_file(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    def stop(views: ImageViews, keys: Sequence[Key]) -> Iterator[tuple[Tensor, Tensor]]:
        yield next(iter(load(views, keys)))
        assert len(list(tmp_path.glob("cache/*/*.tmp"))) == 1  # it has begun
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "cache", encoder.train(), views_of(records), stop)
    assert encoder.training
    assert [path.name for path in tmp_path.glob("cache/*/*")] == [".lock"]
    features = cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert all(np.abs(features[view, index]).sum() for view in range(2) for index in range(COUNT))


def compute(folder: Path, pause: float) -> None:
    """What another process does, as slowly as asked; see `start`."""
    torch.set_num_threads(1)  # the threads of the process that it was forked from aren't there
    torch.manual_seed(0)
    records = [Record(i, folder / "images" / f"{i}.bmp", ("A dog.",)) for i in range(COUNT)]

    def load_slowly(views: ImageViews, keys: Sequence[Key]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in load(views, keys):
            (folder / f"{os.getpid()}.began").touch()
            time.sleep(pause)
            yield batch

    cached_features(
        folder / "cache",
        Encoder(EncoderConfig("squeezenet1_1"), 32),
        views_of(records),
        load_slowly,
    )


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
    assert not list(tmp_path.glob("cache/*/*.npy"))
    killed.kill()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert len(list(tmp_path.glob("*.began"))) == 2, "the killed one, and one of the others"
    assert len(list(tmp_path.glob("cache/*/*.npy"))) == 2, "a part for each view"
    assert not list(tmp_path.glob("cache/*/*.tmp"))


def test_images_that_were_left_out_have_no_features(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    records[1].path.write_text("no image")
    dataset = CaptionDataset(
        records,
        [[[1, 2]]] * COUNT,
        PREPROCESSING,
        features=cached_features(tmp_path, encoder, views_of(records), load),
    )
    assert dataset[0, 0].image is not None
    assert dataset[0, 1].image is None
    assert dataset[0, 1].unreadable == (
        f"{records[1].path}: could not be read when its features were computed",
    )


def test_an_image_that_could_not_be_read_is_tried_again(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    """What it lacked may have been a package: then neither its size nor its time changes."""
    path = records[1].path
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    cache = tmp_path / "cache"
    for _ in range(2):
        calls.clear()
        features = cached_features(cache, encoder, views_of(records), load)
        assert np.isnan(features[0, 1]).all()
        assert not np.isnan(features[0, 2]).any()
    assert not calls, "the other images are encoded once"

    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    readable = cached_features(cache, encoder, views_of(records), load)
    assert sum(calls) == 2, "its two views"
    fresh = cached_features(tmp_path / "fresh", encoder, views_of(records), load)
    for view in range(2):
        for index in range(COUNT):
            np.testing.assert_allclose(
                readable[view, index], fresh[view, index], rtol=2e-3, atol=1e-5
            )


def test_a_disk_without_room_is_refused_before_anything_is_computed(
    records: list[Record], tmp_path: Path
) -> None:
    enormous = Encoder(EncoderConfig("squeezenet1_1"), 32)
    enormous.regions = 10**12
    views = views_of(records)
    enormous.register_forward_pre_hook(lambda module, inputs: pytest.fail("computed all the same"))
    with pytest.raises(DataError, match=r"GB required, .* GB free"):
        cached_features(tmp_path, enormous, views, load)


def test_a_disk_that_becomes_full_leaves_nothing_and_says_so(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    with (
        full_disk(3000),
        pytest.raises(DataError, match=r"cannot write features \(File too large\)"),
    ):
        cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert not [path for path in tmp_path.glob("cache/*/*") if path.suffix in (".npy", ".tmp")]


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
    plain = views_of(records, count=1, preprocessing=checkpoint.preprocessing)
    validated = cache.compute(plain, load, folder=tmp_path / "cache", training=False)
    assert (trained.views, validated.views) == (2, 1)
    pixels = as_input(views[0, 3].image)[None]
    with torch.inference_mode():
        seen = [encoder.eval()(pixels)[0].numpy() for encoder in (own, teacher)]
    np.testing.assert_allclose(trained[0, 3], np.concatenate(seen, axis=1), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(validated[0, 3], seen[0], rtol=2e-3, atol=1e-5)


def test_the_encoder_runs_in_the_precision_of_training(
    encoder: Encoder, records: list[Record], tmp_path: Path
) -> None:
    views = views_of(records)
    cache = FeatureCache(encoder, precision=lambda: torch.autocast("cpu", torch.bfloat16))
    features = cache.compute(views, load, folder=tmp_path, training=True)
    with torch.autocast("cpu", torch.bfloat16):
        again = cached_features(tmp_path, encoder, views, load)
    assert features.files == again.files
    assert features.files != cached_features(tmp_path, encoder, views, load).files
