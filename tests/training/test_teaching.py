"""Unusable captions are counted, shown in the plan, and stop a run before its first step."""

import csv
from pathlib import Path

import pytest

from captioner.data.datamodule import CaptionData
from captioner.errors import DataError
from captioner.tokenizer import tokenize
from captioner.training.teaching import Teaching, check_teaching, count_captions
from captioner.training.train import main
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.training.domains import OLD, draw_domain
from tests.training.runs import ON_TABLES


@pytest.fixture(autouse=True)
def _data(tmp_path):
    draw_domain(tmp_path / "train", OLD, 12)
    draw_domain(tmp_path / "val", OLD, 4, seed=1)


def say(table: str, captions: list[str]) -> None:
    """Give the images of a table other captions, one each, in turn."""
    path = Path(table)
    with path.open(newline="") as file:
        images = list(dict.fromkeys(row["image"] for row in csv.DictReader(file)))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows((image, captions[i % len(captions)]) for i, image in enumerate(images))


def test_counts_are_those_of_hand_counted_captions():
    captions = ["A dog runs.", "😀", "!!", "zebra yak", "a dog " * 4, "a zebra"]
    vocabulary = Vocabulary([*SPECIAL_WORDS, "a", "dog", "runs"])
    assert count_captions(map(tokenize, captions), vocabulary, 7) == Teaching(
        captions=6,
        empty=2,
        unknown=1,
        cut=1,
        words=3 + 0 + 1 + 2 + 8 + 2,
        unknown_words=0 + 0 + 1 + 2 + 0 + 1,
    )


@pytest.mark.parametrize("base", [[], ["--model.init_from=bundled"]])
def test_captions_without_a_word_stop_a_run_before_its_first_step(base, caplog):
    say("train/photos.csv", ["😀👍"])
    assert main([*ON_TABLES, *base]) == 2
    said = caplog.records[-1].message
    assert "no word" in said and "emoji and punctuation don't count" in said
    assert not Path("runs/tiny/checkpoints").exists()


@pytest.mark.parametrize("caption", ["😀👍", "...", "?!", "。。", "‘–’ *"])  # noqa: RUF001
def test_signs_of_all_kinds_are_no_words(caption):
    say("train/photos.csv", [caption])
    with pytest.raises(DataError, match="emoji and punctuation don't count"):
        check_teaching(CaptionData(Path("train/photos.csv"), Path("val/photos.csv"), min_count=1))


def test_captions_of_words_that_are_too_rare_stop_it_likewise():
    say("train/photos.csv", ["the one", *(f"word{number}" for number in range(11))])
    Path("train/photos.csv").write_text(Path("train/photos.csv").read_text() + "0.png,the one\n")
    data = CaptionData(Path("train/photos.csv"), Path("val/photos.csv"), min_count=2)
    with pytest.raises(
        DataError,
        match=r"of 13, 0 have no words .* and 11 only words that occur fewer than 2 times",
    ):
        check_teaching(data)


def test_a_validation_that_has_nothing_to_score_is_refused():
    data = CaptionData(Path("train/photos.csv"), Path("val/photos.csv"), min_count=1)
    check_teaching(data)
    say("val/photos.csv", ["😀"])
    with pytest.raises(DataError, match="Most validation captions have no word"):
        check_teaching(CaptionData(Path("train/photos.csv"), Path("val/photos.csv"), min_count=1))


def test_long_captions_and_a_single_validation_image_are_told(caplog):
    say("train/photos.csv", ["a red square " * 40, "a red square and a zebra"])
    Path("val/photos.csv").write_text("image,caption\n0.png,a red square\n")
    assert main([*ON_TABLES, "--data.min_count=7"]) == 0
    assert "CIDEr-D is always 0 with a single validation image" in caplog.text
    assert "0 without words, 0 with unknown words only, 6 cut to 22 words" in caplog.text
    assert f"{6 * (120 + 6)}, {100 * 12 / (6 * 126):.1f} % unknown" in caplog.text
    caplog.clear()
    assert (
        main([*ON_TABLES, "--checkpoint.monitor=val/BLEU-4", "--trainer.default_root_dir=other"])
        == 0
    )
    assert "CIDEr-D is always 0" not in caplog.text
    card = Path("other/best/README.md").read_text()
    assert "selected by BLEU-4 on 1 validation images" in card
