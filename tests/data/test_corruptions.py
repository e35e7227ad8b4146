"""Corruptions as augmentation: drawn by the seed alone, of training images alone, in views too."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from captioner.annotations.records import Record
from captioner.data.corruptions import Corruptions
from captioner.data.dataset import Augmentation, CaptionDataset
from captioner.data.views import ImageViews
from captioner.errors import ConfigError, MissingExtraError
from captioner.preprocessing import Preprocessing
from captioner.robustness.damages import damage, fit

PREPROCESSING = Preprocessing(size=32)
NOISE = Augmentation(corruptions=Corruptions(1.0, ("gaussian_noise", "contrast"), (2, 4)))
COUNT = 4


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(COUNT):
        blobs = random.integers(40, 200, (6, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(blobs).resize((48, 36), Image.Resampling.BICUBIC)
        photo.save(folder / f"{index}.png")
    return [Record(i, folder / f"{i}.png", ("A dog.",)) for i in range(COUNT)]


def plain(record: Record) -> np.ndarray:
    return np.asarray(PREPROCESSING.fit(Image.open(record.path)))


def images_of(records: list[Record], epoch: int = 0, **options: object) -> list[np.ndarray]:
    dataset = CaptionDataset(records, [[[1, 2]]] * COUNT, PREPROCESSING, **options)
    return [dataset[epoch, index].image for index in range(COUNT)]


def test_by_default_nothing_is_damaged_and_nothing_is_drawn(records: list[Record]) -> None:
    for image, record in zip(images_of(records, augmentation=Augmentation()), records, strict=True):
        assert np.array_equal(image, plain(record))
    random, photo = np.random.default_rng(0), Image.open(records[0].path)
    assert Corruptions()(photo, random) is photo
    assert random.random() == np.random.default_rng(0).random()


def test_a_damaged_image_is_that_of_the_robustness_measurement(records: list[Record]) -> None:
    corruptions = Corruptions(1.0, ("gaussian_noise",), (4,))
    photo = Image.open(records[0].path)
    random = np.random.default_rng(5)
    random.random(), random.integers(1), random.integers(1)  # whether, which, how severe
    seed = int(random.integers(2**31))
    expected = damage(fit(photo), "gaussian_noise", 4, key="", seed=seed)
    found = corruptions(photo, np.random.default_rng(5))
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert not np.array_equal(np.asarray(found), np.asarray(photo))


def test_damages_depend_on_seed_epoch_and_image_alone(records: list[Record]) -> None:
    first = images_of(records, augmentation=NOISE, seed=3)
    np.random.seed(1)
    again = images_of(records, augmentation=NOISE, seed=3)
    assert all(map(np.array_equal, first, again))
    for others in (
        images_of(records, augmentation=NOISE, seed=4),
        images_of(records, epoch=1, augmentation=NOISE, seed=3),
    ):
        assert not all(map(np.array_equal, first, others))


def test_the_share_is_that_of_damaged_images_and_all_cases_are_drawn(
    records: list[Record],
) -> None:
    photo = Image.open(records[0].path)
    fitted = fit(photo)
    cases = {
        np.asarray(damage(fitted, name, severity, key="")).tobytes(): (name, severity)
        for name, severity in (("contrast", 1), ("contrast", 3), ("rotation", 1), ("rotation", 3))
    }  # none is random
    cases[np.asarray(photo).tobytes()] = ("none", 0)
    corruptions = Corruptions(0.4, ("contrast", "rotation"), (1, 3, 5))
    random = np.random.default_rng(0)
    drawn = Counter(
        cases.get(np.asarray(corruptions(photo, random)).tobytes(), ("contrast", 5))
        for _ in range(400)
    )
    assert set(drawn) == {*cases.values(), ("contrast", 5)}
    assert 200 < drawn["none", 0] < 280, "0.6 of 400, four standard deviations"
    assert 40 < drawn["rotation", 1] + drawn["rotation", 3] < 120


def test_the_first_cached_view_is_whole_and_the_others_are_damaged(
    records: list[Record],
) -> None:
    noise = Augmentation(corruptions=Corruptions(1.0, ("gaussian_noise",), (2, 4)))
    views, again = (ImageViews(records, PREPROCESSING, 3, noise, seed=2) for _ in range(2))
    for index, record in enumerate(records):
        assert np.array_equal(views[0, index].image, plain(record))
        shown = [views[view, index].image for view in (1, 2)]
        assert not any(np.array_equal(image, plain(record)) for image in shown)
        assert not np.array_equal(*shown)
        assert np.array_equal(again[2, index].image, shown[1])


def test_cached_views_are_known_by_their_damages(records: list[Record]) -> None:
    def facts(augmentation: Augmentation, view: int = 1) -> str:
        return repr(ImageViews(records, PREPROCESSING, 2, augmentation).facts(view, 0))

    assert facts(NOISE, 0) == facts(Augmentation(), 0)
    assert facts(NOISE) != facts(Augmentation())
    fewer = replace(NOISE.corruptions, severities=(2,))
    assert facts(NOISE) != facts(replace(NOISE, corruptions=fewer))
    never = Corruptions(0.0, ("crop",))
    assert facts(Augmentation(corruptions=never)) == facts(Augmentation())
    assert "orruptions" not in facts(Augmentation()), "the caches of before stay valid"


def test_what_cannot_be_drawn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"share": 1.5}, {"share": 0.5, "severities": (6,)}):
        with pytest.raises(ConfigError, match="share from 0 to 1, and severities of 1 to 5"):
            Corruptions(**wrong)
    with pytest.raises(ConfigError, match="Unknown damage 'rain'"):
        Corruptions(0.5, ("rain",))
    with pytest.raises(ConfigError, match=r"'rotation' has none of .*expected some of 1, 2, 3"):
        Corruptions(0.5, ("rotation",), (4, 5))
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    Corruptions(0.5, ("crop",))
    with pytest.raises(MissingExtraError, match="robustness"):
        Corruptions(0.5)
