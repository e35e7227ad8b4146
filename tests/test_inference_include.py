"""Captions with required words, from images to text."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.decoding.forms import base
from captioner.errors import ConfigError
from captioner.inference import Caption, Captioner

Picture = Callable[[int], Image.Image]
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def pictures(picture: Picture) -> list[Image.Image]:
    return [picture(number) for number in range(12)]


def texts(captions: list[Caption]) -> list[str]:
    return [caption.text for caption in captions]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_captions_contain_the_words_on_both_backends_and_of_ensembles(
    checkpoint_folder: Path, captioner: Captioner, pictures: list[Image.Image], beam_size: int
) -> None:
    assert any("bird" not in caption.words for caption in captioner.caption(pictures)), (
        "they have to be made to"
    )
    options = {"include": ["Birds", "red ball"], "beam_size": beam_size, "max_length": 8}
    captions = captioner.caption(pictures, **options)
    for caption in captions:
        assert "bird" in caption.words
        assert "red ball" in caption.text
        assert len(caption.words) <= 8
    on_torch = Captioner.from_pretrained(checkpoint_folder, backend="torch")
    ensemble = Captioner.from_pretrained([checkpoint_folder, checkpoint_folder], backend="onnx")
    for other in (on_torch, ensemble):
        assert texts(other.caption(pictures, **options)) == texts(captions)
    assert texts(captioner.caption(pictures, batch_size=5, **options)) == texts(captions)


def test_all_alternatives_contain_the_words(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    for caption in captioner.caption(pictures, include=["dog"], alternatives=3):
        assert len({other.text for other in caption.alternatives}) == 3
        assert all("dog" in other.words for other in caption.alternatives)


def test_each_image_has_its_own_words(captioner: Captioner, pictures: list[Image.Image]) -> None:
    wanted = [["cat"], [], ["dog", "beach"], ["the street"]] * 3
    found = captioner.caption(pictures, include=wanted)
    alone = [
        captioner.caption(image, include=each)[0]
        for image, each in zip(pictures, wanted, strict=True)
    ]
    assert texts(found) == texts(alone)
    assert texts(found[1::4]) == texts(captioner.caption(pictures)[1::4])
    unreadable = captioner.caption(
        [b"", *pictures[:5], b""], on_error="skip", include=[["man"], *wanted[:5], ["a"]]
    )
    assert texts([caption for caption in unreadable if caption is not None]) == texts(found[:5])
    with pytest.raises(ConfigError, match="include has 2 lists for 1 images"):
        captioner.caption(pictures[0], include=[["cat"], []])
    with pytest.raises(ConfigError, match="expected a list of images"):
        captioner.caption(iter(pictures), include=wanted)
    with pytest.raises(ConfigError, match="expected a list of words"):
        captioner.caption(pictures[:2], include=[["cat"], "dog"])


def test_nothing_to_include_changes_nothing(
    captioner: Captioner, pictures: list[Image.Image]
) -> None:
    assert captioner.caption(pictures, include=[]) == captioner.caption(pictures)
    assert captioner.caption(pictures, include=()) == captioner.caption(pictures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["birt"]}, "know the word birt; the closest words that it knows: bird"),
        ({"include": "cat"}, "include is 'cat'; expected a list of words"),
        (
            {"include": ["cat", "dog"], "max_length": 1, "min_length": 1},
            "Raise max_length, or include fewer",
        ),
        (
            {"include": ["cat"], "sample": True},
            "include is ('cat',); expected none while sample is on",
        ),
    ],
)
def test_what_cannot_be_included_is_refused_before_any_image_is_read(
    captioner: Captioner, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        captioner.stream([b""], **options)


def test_the_bundled_model_says_more_than_the_word() -> None:
    model = Captioner.from_pretrained()
    photos = sorted(EXAMPLES.glob("*.jpg"))
    for include in (["cat"], ["traffic lights"], ["ride", "women"]):
        for caption in model.caption(photos, include=include):
            assert {base(word) for word in " ".join(include).split()} <= {
                base(word) for word in caption.words
            }
            assert len(caption.words) >= 6
            assert caption.log_prob / len(caption.words) > -3, (
                "no word is forced in where it has no place"
            )
    (cat,) = model.caption(EXAMPLES / "cat.jpg", include=["cat"])
    (free,) = model.caption(EXAMPLES / "cat.jpg")
    assert cat.text == free.text, "which says so by itself"
