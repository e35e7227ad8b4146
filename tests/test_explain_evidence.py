"""Words with and without visual evidence: `find_evidence`, `captioner explain`."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.decoding import DecodingOptions
from captioner.decoding.scoring import log_probs_of
from captioner.errors import ConfigError
from captioner.explain import Evidence, find_evidence
from captioner.inference import Caption, Captioner
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.decoding.table import Table, TableStepper
from tests.test_explain import run

WORDS = ("a", "dog", "'s", "ball", "on", "grass")
PHOTO, MEAN = Table(1, len(SPECIAL_WORDS) + len(WORDS)), Table(2, len(SPECIAL_WORDS) + len(WORDS))


class Tables:
    """A backend of two tables: one for the mean photo, which is all 0, one for all others."""

    def encode(self, pixels: np.ndarray) -> TableStepper:
        return TableStepper([PHOTO if image.any() else MEAN for image in pixels])


@pytest.fixture
def by_table() -> Captioner:
    vocabulary = Vocabulary([*SPECIAL_WORDS, *WORDS])
    return Captioner(Tables(), vocabulary, Preprocessing(size=8), DecodingOptions())  # type: ignore[arg-type]


def caption_of(captioner: Captioner, *words: str) -> Caption:
    """What a search on the photo would give, with its log-probabilities looked up by hand."""
    ids = [captioner.vocabulary.index(word) for word in words]
    log_probs = [float(PHOTO.log_probs(tuple(ids[:t]))[word]) for t, word in enumerate(ids)]
    return Caption(captioner.vocabulary.text(ids), words, sum(log_probs), tuple(log_probs))


def test_pmi_is_the_difference_of_two_tables(by_table: Captioner) -> None:
    sentences = [("a", "dog", "on", "grass"), ("ball",), (), ("a", "dog", "'s", "ball")]
    captions = [caption_of(by_table, *words) for words in sentences]
    found = find_evidence(by_table, captions)
    assert [each.caption for each in found] == captions
    for words, each in zip(sentences, found, strict=True):
        ids = tuple(by_table.vocabulary.index(word) for word in words)
        by_hand = [
            float(PHOTO.log_probs(ids[:t])[word]) - float(MEAN.log_probs(ids[:t])[word])
            for t, word in enumerate(ids)
        ]
        assert each.pmi == pytest.approx(by_hand, abs=1e-6)
    assert find_evidence(by_table, []) == []


def test_content_words_below_the_threshold_are_marked(by_table: Captioner) -> None:
    words = ("a", "dog", "'s", "ball", "on", "grass")
    caption = replace(caption_of(by_table, *words), text="a dog's ball on grass")
    evidence = Evidence(caption, pmi=(-9.0, 0.3, -9.0, 0.5, -9.0, -0.1), threshold=0.5)
    assert evidence.marked == (False, True, False, False, False, True)
    assert evidence.text == "a [dog]'s ball on [grass]"
    assert replace(evidence, threshold=0.0).text == "a dog's ball on [grass]"
    assert evidence.to_dict()["words"][1] == {
        "word": "dog",
        "log_prob": caption.word_log_probs[1],
        "pmi": 0.3,
        "marked": True,
    }
    with pytest.raises(ConfigError, match="is NaN"):
        find_evidence(by_table, [caption], threshold=math.nan)


def test_both_backends_agree_with_teacher_forcing(
    checkpoint_folder: Path, picture: Callable[[int], Image.Image]
) -> None:
    photos = [picture(number) for number in range(5)]
    found = []
    for backend in ("onnx", "torch"):
        captioner = Captioner.from_pretrained(checkpoint_folder, backend=backend)
        captions = captioner.caption(photos)
        found.append(find_evidence(captioner, captions))
        pixels = np.stack([captioner.preprocessing(photo) for photo in photos])
        ids = [[*map(captioner.vocabulary.index, caption.words)] for caption in captions]
        seen, unseen = (
            log_probs_of(captioner.backend.encode(some), ids)
            for some in (pixels, np.zeros_like(pixels))
        )
        for each, with_photo, without in zip(found[-1], seen, unseen, strict=True):
            assert each.pmi == pytest.approx(with_photo - without, abs=1e-4)
    for one, other in zip(*found, strict=True):
        assert one.caption.words == other.caption.words
        assert one.pmi == pytest.approx(other.pmi, abs=1e-3)


@pytest.fixture
def holiday(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    return folder


def test_the_command_marks_a_folder(
    checkpoint_folder: Path, captioner: Captioner, holiday: Path
) -> None:
    paths = sorted(holiday.iterdir())
    (holiday / "broken.png").write_bytes(b"no picture")
    captions = captioner.caption(paths, beam_size=2)
    call = ["explain", holiday, "--evidence", "--model", checkpoint_folder, "--beam-size", 2]
    expected = find_evidence(captioner, captions)
    for options in ([], ["--batch-size", 2]):
        status, stdout, stderr = run(*call, *options)
        lines = [f"{path}\t{each.text}" for path, each in zip(paths, expected, strict=True)]
        assert (status, stdout.splitlines()) == (1, lines)
        assert "broken.png: " in stderr and "content words have no visual evidence" in stderr
    _, stdout, _ = run(*call, "--json")
    for line, path, each in zip(stdout.splitlines(), paths, expected, strict=True):
        entry = json.loads(line)
        assert (entry["path"], entry["caption"]) == (str(path), each.caption.text)
        assert [word["pmi"] for word in entry["words"]] == pytest.approx(each.pmi, abs=1e-4)
        assert [word["marked"] for word in entry["words"]] == list(each.marked)


def test_the_command_takes_a_threshold_and_standard_input(
    checkpoint_folder: Path, captioner: Captioner, holiday: Path
) -> None:
    photo = holiday / "1.png"
    (caption,) = captioner.caption(photo)
    call = ["explain", "-", "--evidence", "--model", checkpoint_folder, "--min-evidence"]
    status, stdout, stderr = run(*call, 1000, stdin=photo.read_bytes())
    (all_marked,) = find_evidence(captioner, [caption], threshold=1000)
    assert (status, stdout, stderr) == (0, f"{all_marked.text}\n", "")
    assert any(all_marked.marked)
    assert run(*call, -1000, stdin=photo.read_bytes())[1] == f"{caption.text}\n"


def test_conflicting_options_are_reported(checkpoint_folder: Path, holiday: Path) -> None:
    model = ("--model", checkpoint_folder)
    for args, message in (
        ((holiday / "1.png", *model), "--output FILE to draw a figure, or --evidence"),
        (
            (holiday, "--evidence", "--output", "page.html"),
            "--output cannot be combined with --evidence",
        ),
        (
            (holiday, "--evidence", "--method", "occlusion"),
            "--method cannot be combined with --evidence",
        ),
        ((holiday, "--output", "page.html", "--json"), "--json requires --evidence"),
        ((holiday, "--output", "page.html", "--min-evidence", 1), "--min-evidence requires"),
        ((holiday, holiday, "--output", "page.html"), "Unexpected argument"),
        (("-", "-", "--evidence", *model), "- was given twice"),
        ((holiday, "--evidence", "--min-evidence", "nan", *model), "is NaN"),
    ):
        status, stdout, stderr = run("explain", *args)
        assert (status, stdout) == (2, ""), args
        assert message in stderr and "Traceback" not in stderr
