"""Scores of raw captions, and their reports."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from captioner.errors import ConfigError
from captioner.evaluation.assess import score
from captioner.evaluation.bleu import bleu
from captioner.evaluation.cider import cider_d
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.findings import Comparison, Difference, Evaluation, Group
from captioner.evaluation.output import save_per_image, save_scores
from captioner.evaluation.rouge import rouge_l
from captioner.evaluation.scoring import score_corpus
from captioner.evaluation.text_report import as_text
from captioner.tokenizer import tokenize

REFERENCES = {
    1: ["A dog's ball, on grass.", "The ball of a dog!"],
    2: ["Two men don't sit.", "Men stand; they talk."],
}
CAPTIONS = {2: "two men do n't sit", 1: "a dog's ball on sand"}
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]


def full() -> Evaluation:
    """An evaluation that has everything."""
    differences = {
        "BLEU-4": Difference(0.19, 0.008, (-0.0012, 0.017), 0.0871),
        "CIDEr-D": Difference(1.2, 0.013, (0.0041, 0.0214), 0.0002),
    }
    return dataclasses.replace(
        score(REFERENCES, CAPTIONS),
        intervals=dict.fromkeys(NAMES, (0.4, 0.5123)),
        health={"mean length": 4.5, "vocabulary": 9, "unique captions": 1.0, "bad endings": 0.5}
        | {"empty captions": 0, "most frequent caption": 3},
        groups=(Group("animal", 1, {"BLEU-4": 0.5}), Group("animal: dog", 1, {"BLEU-4": 0.5})),
        comparison=Comparison("theirs.json", differences),
        paths=(Path("a.jpg"), None),
        annotated=5,
        most_frequent="a dog",
        facts={"captioner": "1.0"},
    )


def test_score_tokenises_both_sides() -> None:
    found = score(REFERENCES, CAPTIONS)
    references = {
        image_id: [tokenize(text) for text in texts] for image_id, texts in REFERENCES.items()
    }
    captions = {image_id: tokenize(text) for image_id, text in CAPTIONS.items()}
    expected = [
        *bleu(references, captions),
        rouge_l(references, captions)[0],
        cider_d(references, captions)[0],
    ]
    assert list(found.scores) == list(found.per_image) == NAMES
    assert list(found.scores.values()) == pytest.approx(expected, abs=1e-12)
    assert found.image_ids == (1, 2)
    assert found.captions == (CAPTIONS[1], CAPTIONS[2])
    assert found.references == tuple(map(tuple, REFERENCES.values()))
    assert found.per_image["BLEU-4"][1] == pytest.approx(1)


def test_a_reference_itself_scores_full_bleu_whatever_its_case_and_punctuation() -> None:
    scores = score(REFERENCES, {1: "a DOG's ball on grass", 2: "Two men don't sit"}).scores
    assert [scores[name] for name in NAMES[:5]] == pytest.approx([1] * 5)


def test_scores_are_shown_times_100_with_one_decimal_above_their_intervals() -> None:
    lines = as_text(full()).splitlines()
    plain = score(REFERENCES, CAPTIONS)
    assert lines[0].split() == [*NAMES, "images"]
    assert lines[1].split() == [*(f"{100 * value:.1f}" for value in plain.scores.values()), "2"]
    assert lines[2].split() == ["40.0-51.2"] * 6
    assert len(as_text(plain).splitlines()) == 2
    ends = [
        {place for place, sign in enumerate(f"{line} ") if sign == " " and line[place - 1] != " "}
        for line in lines[:2]
    ]
    assert ends[0] == ends[1], "numbers stand under their names"
    assert all(len(line) <= 80 for line in lines)


def test_other_results_are_summarised() -> None:
    text = as_text(full())
    assert "2 of 5 annotated images were scored." in text
    assert "BLEU-4  +0.8 [-0.1, 1.7], p = 0.087" in text
    assert "CIDEr-D +1.3 [0.4, 2.1], p < 0.001" in text
    assert "\nmean length 4.5, vocabulary 9, unique captions 100.0 %\nbad endings 50.0 %\n" in text
    assert "most frequent, 3 times: a dog" in text
    assert [line.split() for line in text.splitlines() if line.startswith("animal")] == [
        ["animal", "50.0", "1"]
    ]
    assert "most frequent" not in as_text(
        dataclasses.replace(full(), health={"most frequent caption": 1})
    )


def test_missing_captions_are_reported_by_system() -> None:
    text = as_text(dataclasses.replace(full(), comparison=Comparison("theirs.json", {}, missing=1)))
    assert (
        "2 of 5 annotated images were scored.\nWithout a caption: 2.\nCaptioned, but not in"
        " theirs.json: 1." in text
    )
    assert "Captioned, but" not in as_text(full())
    assert "against" not in text, "without a score that both have there is nothing to tell"


def test_a_note_warns_about_few_images() -> None:
    assert "Fewer than 30 images: too few to rely on intervals and p-values." in as_text(full())
    plain = score(REFERENCES, CAPTIONS)
    assert "Fewer" not in as_text(plain), "it has no intervals"
    one = score({1: REFERENCES[1]}, {1: CAPTIONS[1]})
    assert (
        one.scores["CIDEr-D"]
        == score({1: REFERENCES[1]}, {1: REFERENCES[1][0]}).scores["CIDEr-D"]
        == 0
    )
    assert "CIDEr-D is always 0 if there is only one image." in as_text(one)
    assert "CIDEr-D is always 0" not in as_text(plain)


def test_unknown_scores_are_dashes_and_null(tmp_path: Path) -> None:
    nan = float("nan")
    evaluation = dataclasses.replace(
        full(),
        scores={"BLEU-4": 0.5, "SPICE": nan},
        intervals={"BLEU-4": (0.4, 0.6), "SPICE": (nan, nan)},
        per_image={"BLEU-4": np.array([0.5, 0.5]), "SPICE": np.array([nan, 0.2])},
        groups=(Group("animal", 1, {"BLEU-4": 0.5, "SPICE": nan}),),
        comparison=Comparison("theirs.json", {"SPICE": Difference(0.2, nan, (nan, nan), nan)}),
    )
    lines = as_text(evaluation).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["BLEU-4", "SPICE", "images"],
        ["50.0", "\u2013", "2"],
        ["40.0-60.0"],
    ]
    assert {
        "SPICE is undefined for 1 of the 2 images, and so for the whole set.",
        "SPICE   \u2013",
    } < {*lines}
    assert ["animal", "50.0", "\u2013", "1"] in [line.split() for line in lines]
    save_scores(tmp_path / "scores.json", evaluation)
    read = json.loads(
        (tmp_path / "scores.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    assert (read["SPICE"], read["intervals"]["SPICE"]) == (None, [None, None])
    assert read["comparison"]["differences"]["SPICE"] == {
        "other": 0.2,
        "difference": None,
        "interval": [None, None],
        "p_value": None,
    }


def test_zero_has_no_sign() -> None:
    differences = {"BLEU-4": Difference(0.2, -0.0004, (-0.0003, 0.0), 0.5)}
    text = as_text(dataclasses.replace(full(), comparison=Comparison("theirs.json", differences)))
    assert "BLEU-4  +0.0 [0.0, 0.0], p = 0.500" in text


def test_what_utf_8_cannot_encode_is_escaped(tmp_path: Path) -> None:
    odd = "r\udcff.json"
    evaluation = dataclasses.replace(
        full(), title=odd, captions=(odd, "x"), most_frequent=odd, facts={"results": odd}
    )
    save_scores(tmp_path / "scores.json", evaluation)
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["facts"] == {
        "results": odd
    }
    save_per_image(tmp_path / "images.csv", evaluation)
    assert "r\\udcff.json" in (tmp_path / "images.csv").read_text(encoding="utf-8")


def test_json_keeps_precision_under_the_published_names(tmp_path: Path) -> None:
    evaluation = full()
    save_scores(tmp_path / "scores.json", evaluation)
    read = json.loads((tmp_path / "scores.json").read_text())
    assert {name: read[name] for name in NAMES} == evaluation.scores
    assert (read["images"], read["annotated"]) == (2, 5)
    assert read["intervals"]["ROUGE-L"] == [0.4, 0.5123]
    assert read["comparison"]["differences"]["BLEU-4"]["p_value"] == 0.0871
    assert read["groups"][1]["name"] == "animal: dog"
    assert read["most frequent caption"] == "a dog"
    assert score(REFERENCES, CAPTIONS).to_dict() == {**evaluation.scores, "images": 2}


def test_the_table_of_images_holds_each_ones_scores(tmp_path: Path) -> None:
    evaluation = dataclasses.replace(full(), captions=('say "hi", 犬', "two\nlines"))
    save_per_image(tmp_path / "images.csv", evaluation)
    with (tmp_path / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == ["1", "2"]
    assert [row["file"] for row in rows] == ["a.jpg", ""]
    assert tuple(row["caption"] for row in rows) == evaluation.captions
    for name in NAMES:
        assert [float(row[name]) for row in rows] == evaluation.per_image[name].tolist()


def test_metrics_are_chosen_by_name_and_shown_in_their_order() -> None:
    corpus = Corpus(REFERENCES, CAPTIONS)
    assert list(score_corpus(corpus, ["cider", "rouge"]).scores) == ["ROUGE-L", "CIDEr-D"]
    chosen = score_corpus(corpus, ["rouge"])
    assert list(chosen.measured) == ["rouge"]
    assert chosen.weighed(np.ones((1, 2)))["ROUGE-L"] == pytest.approx([chosen.scores["ROUGE-L"]])
    for wrong in (["bleu", "blue"], []):
        with pytest.raises(ConfigError, match="expected some of bleu, rouge, cider, meteor, spice"):
            score_corpus(corpus, wrong)
