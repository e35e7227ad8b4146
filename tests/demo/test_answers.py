"""The answers of the demo, without a server."""

import base64
import copy
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.confidence import Calibration, Confidence
from captioner.decoding import DecodingOptions
from captioner.decoding.options import decoding_options
from captioner.demo.answers import api_answer, page_answer, page_options
from captioner.demo.limits import LARGEST
from captioner.errors import CaptionerError, ConfigError
from captioner.inference import Captioner

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "pagoda.jpg"


def page(captioner: Captioner, path: Path, **options):
    return page_answer(captioner, path, path.name, options)


def test_the_api_answers_what_the_command_prints(bundled):
    command = [
        sys.executable,
        "-m",
        "captioner",
        "caption",
        "--json",
        "--beam-size",
        "4",
        "--alternatives",
        "3",
        PHOTO,
    ]
    printed = json.loads(
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    answer = api_answer(
        bundled, PHOTO, str(PHOTO), {"beam_size": 4, "alternatives": 3, "seed": None}
    )
    assert {"path": str(PHOTO), **answer} == printed


def test_the_page_shows_the_captioners_result(bundled):
    answer = page(bundled, PHOTO, beam_size=4, alternatives=3)
    (caption,) = bundled.caption(PHOTO, beam_size=4, alternatives=3)
    assert [one["text"] for one in answer["captions"]] == [one.text for one in caption.alternatives]
    for drawn, said in zip(answer["captions"], caption.alternatives, strict=True):
        assert drawn["probability"] == pytest.approx(math.exp(said.log_prob))
        assert [word["word"] for word in drawn["words"]] == list(said.words)
        np.testing.assert_allclose(
            [word["map"] for word in drawn["words"]], said.attention, atol=1e-5
        )
        assert math.prod(word["probability"] for word in drawn["words"]) >= drawn["probability"]
    json.dumps(answer)


def test_the_photo_on_the_page_is_a_jpeg_with_its_aspect_ratio(bundled):
    answer = page(bundled, PHOTO)
    kind, _, data = answer["photo"].partition(",")
    shown, original = Image.open(io.BytesIO(base64.b64decode(data))), Image.open(PHOTO)
    assert kind == "data:image/jpeg;base64"
    assert shown.size == (answer["width"], answer["height"])
    assert shown.width / shown.height == pytest.approx(original.width / original.height, abs=0.01)


@pytest.mark.parametrize("number", range(12))
def test_joined_words_read_as_the_caption(captioner, picture, number, tmp_path):
    picture(number).save(tmp_path / "photo.png")
    for caption in page(captioner, tmp_path / "photo.png", alternatives=3)["captions"]:
        read = "".join(
            f"{'' if word['joined'] else ' '}{word['word']}" for word in caption["words"]
        )
        assert read == caption["text"]


def test_page_and_api_show_tags(captioner, picture, tmp_path):
    path = tmp_path / "photo.png"
    picture(0).save(path)
    (caption,) = captioner.caption(path)
    expected = [
        {"noun": tag.noun, "probability": pytest.approx(tag.probability)} for tag in caption.tags
    ]
    assert expected, "or the test would see nothing"
    assert (
        page(captioner, path)["tags"]
        == api_answer(captioner, path, path.name, {})["tags"]
        == expected
    )


def test_without_a_classifier_there_are_no_tags(without_attention):
    assert (
        page(without_attention, PHOTO)["tags"]
        == api_answer(without_attention, PHOTO, "photo.jpg", {})["tags"]
        == []
    )


def test_page_and_api_show_confidence(captioner, picture, tmp_path):
    path = tmp_path / "photo.png"
    picture(0).save(path)
    assert page(captioner, path)["confidence"] is None
    sure = copy.copy(captioner)
    sure.confidence = Confidence({"": Calibration(0.5, 60, 1.5, {"mean_log_prob": 0.3})})
    (caption,) = sure.caption(path)
    assert 0 < caption.confidence < 1
    assert (
        page(sure, path, alternatives=2)["confidence"]
        == api_answer(sure, path, path.name, {})["confidence"]
        == pytest.approx(caption.confidence)
    )


def test_the_page_captions_in_the_chosen_style(captioner, picture, tmp_path):
    path = tmp_path / "photo.png"
    picture(0).save(path)
    chosen = {
        option.name: getattr(captioner.decoding, option.name) for option in decoding_options()
    }
    assert page_options(captioner, chosen)["style"] == ""
    options = page_options(captioner, {**chosen, "style": "loud"})
    assert "no style 'loud'" in page(captioner, path, **options)["message"]


def test_a_model_without_attention_has_no_maps(without_attention):
    (caption,) = page(without_attention, PHOTO)["captions"]
    assert len(caption["words"]) >= 4
    assert all(word["map"] is None for word in caption["words"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.jpg", b"dear diary", "is not an image, or damaged"),
        ("empty.png", b"", "is empty"),
        (
            "cut.jpg",
            PHOTO.read_bytes()[:9000],
            "cannot be decoded: damaged, truncated or not supported.",
        ),
        ("bomb.ppm", b"P6 100000 100000 255 ", "pixels: scale it down first"),
    ],
)
def test_an_invalid_photo_gets_a_friendly_message(bundled, tmp_path, name, content, said):
    path = tmp_path / "0a1b2c" / name
    path.parent.mkdir()
    path.write_bytes(content)
    message = page_answer(bundled, path, name, {})["message"]
    assert message.startswith(f"“{name}” ")
    assert said in message
    assert message.endswith(".")
    assert str(tmp_path) not in message
    with pytest.raises(CaptionerError, match=said.rstrip(".")) as caught:
        api_answer(bundled, path, name, {})
    assert str(tmp_path) not in str(caught.value)


def test_a_photo_that_is_gone_is_to_be_chosen_again(bundled, tmp_path):
    message = page_answer(bundled, tmp_path / "photo.jpg", "photo.jpg", {})["message"]
    assert message == "“photo.jpg” is no longer on the server: choose it again."


@pytest.mark.parametrize("name", LARGEST)
def test_requests_that_would_block_the_server_are_rejected(bundled, name):
    with pytest.raises(
        ConfigError, match=f"{name} is 1000000; this demo allows at most {LARGEST[name]}"
    ):
        api_answer(bundled, PHOTO, "photo.jpg", {name: 1_000_000})


def test_malformed_values_are_rejected(bundled):
    many = ["word"] * (LARGEST["forbidden_endings"] + 1)
    with pytest.raises(
        ConfigError, match=f"forbidden_endings has {len(many)} words; this demo allows at most"
    ):
        api_answer(bundled, PHOTO, "photo.jpg", {"forbidden_endings": many})
    for name in ("forbidden_endings", "include"):
        with pytest.raises(
            ConfigError, match=f"{name} has a word of 60,000 characters; this demo allows at most"
        ):
            api_answer(bundled, PHOTO, "photo.jpg", {name: ["cat", "a" * 60_000]})
        # as `Captioner.caption` takes the words of several photos
        with pytest.raises(ConfigError, match=f"{name} is .*; expected a list of words"):
            api_answer(bundled, PHOTO, "photo.jpg", {name: [["dog"] * 50]})


@pytest.mark.parametrize(
    "options", [{"beam_size": 2.5}, {"beam_size": "many"}, {"sample": 1}, {"temperature": 2.0}]
)
def test_options_that_cannot_be_used_are_explained(bundled, options):
    (name,) = options
    assert name in page_answer(bundled, PHOTO, "photo.jpg", options)["message"]


@pytest.mark.parametrize(
    "own", [DecodingOptions(min_length=6), DecodingOptions(sample=True, top_k=5, temperature=0.5)]
)
@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("max_length", [2, 16])
def test_the_controls_never_contradict_each_other(bundled, own, sample, beam_size, max_length):
    captioner = Captioner(bundled.backend, bundled.vocabulary, bundled.preprocessing, own)
    chosen = {
        "beam_size": beam_size,
        "alternatives": 4,
        "max_length": max_length,
        "no_repeat_ngram": 2,
    }
    options = page_options(captioner, {**chosen, "sample": sample, "temperature": 0.7})
    made = DecodingOptions.from_dict(own.to_dict() | options)  # raises if they do
    assert (made.sample, made.max_length, made.no_repeat_ngram) == (sample, max_length, 2)
    assert made.temperature == (0.7 if sample else 1)
    assert made.alternatives == (4 if sample else min(4, beam_size))
