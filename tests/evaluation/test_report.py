"""Scores of raw captions, their table, and results files."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from captioner.errors import DataError
from captioner.evaluation.metrics import bleu, cider_d
from captioner.evaluation.report import Scores, load_results, save_results, save_scores, score
from captioner.evaluation.tokenizer import tokenize

REFERENCES = {1: ["A dog's ball, on grass.", "The ball of a dog!"], 2: ["Two men don't sit.", "Men stand; they talk."]}
CAPTIONS = {2: "two men do n't sit", 1: "a dog's ball on sand"}


def test_score_tokenises_both_sides() -> None:
    scores = score(REFERENCES, CAPTIONS)
    references = {image_id: [tokenize(text) for text in texts] for image_id, texts in REFERENCES.items()}
    captions = {image_id: tokenize(text) for image_id, text in CAPTIONS.items()}
    assert scores == Scores(bleu(references, captions), cider_d(references, captions)[0], 2)


def test_a_reference_itself_scores_full_bleu_whatever_its_case_and_punctuation() -> None:
    scores = score(REFERENCES, {1: "a DOG's ball on grass", 2: "Two men don't sit"})
    assert scores.bleu == pytest.approx((1, 1, 1, 1))


def test_scores_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        score(REFERENCES, CAPTIONS).images = 3  # type: ignore[misc]


def test_table_shows_hundredfold_scores_with_one_decimal() -> None:
    table = Scores((0.63625, 0.446, 0.305, 0.20949), 1.2346, 1000).as_table()
    assert [line.split() for line in table.splitlines()] == [
        ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D", "images"],
        ["63.6", "44.6", "30.5", "20.9", "123.5", "1000"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_scores_as_json_keep_their_precision(tmp_path: Path) -> None:
    scores = Scores((0.1, 0.2, 0.3, 1 / 3), 2 / 3, 7)
    save_scores(tmp_path / "scores.json", scores)
    assert json.loads((tmp_path / "scores.json").read_text()) == {
        "BLEU-1": 0.1,
        "BLEU-2": 0.2,
        "BLEU-3": 0.3,
        "BLEU-4": 1 / 3,
        "CIDEr-D": 2 / 3,
        "images": 7,
    }


@settings(deadline=None)
@given(st.dictionaries(st.integers() | st.text(), st.text(st.characters(exclude_categories=["Cs"]))))
def test_results_come_back_as_they_were_saved(
    tmp_path_factory: pytest.TempPathFactory, captions: dict[int | str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "results.json"
    save_results(path, captions)  # type: ignore[arg-type]
    assert load_results(path) == captions
    assert load_results(path, captions.keys()) == captions


def test_results_are_what_pycocotools_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in REFERENCES],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "caption": text}
            for i, texts in REFERENCES.items()
            for j, text in enumerate(texts)
        ],
    }
    coco.createIndex()
    save_results(tmp_path / "results.json", CAPTIONS)
    loaded = coco.loadRes(str(tmp_path / "results.json"))
    assert {i: loaded.imgToAnns[i][0]["caption"] for i in CAPTIONS} == CAPTIONS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"image_id": 1,\n', "line 2: not JSON"),
        ('{"image_id": 1, "caption": "x"}', "expected a list"),
        ("[1]", "entry 0: expected {"),
        ('[{"image_id": 1}]', "entry 0: expected {"),
        ('[{"image_id": 1.5, "caption": "x"}]', 'entry 0: "image_id" must be'),
        ('[{"image_id": null, "caption": "x"}]', 'entry 0: "image_id" must be'),
        ('[{"image_id": true, "caption": "x"}]', 'entry 0: "image_id" must be'),
        ('[{"image_id": 1, "caption": ["x"]}]', "entry 0: the caption of image 1 must be text"),
        ('[{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}]', "entry 1: a second caption of image 1"),
        ('[{"image_id": 3, "caption": "x"}]', "entry 0: image 3 is not in the annotations"),
        ('[{"image_id": "2", "caption": "x"}]', "image '2' is not in the annotations (but a number with the same"),
        ('[{"image_id": 2, "caption": "x"}]', "1 of 2 annotated images have no caption, image 1"),
        ("[]", "2 of 2 annotated images have no caption"),
    ],
)
def test_results_that_do_not_fit_are_refused_in_one_line_that_says_where(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_results(path, REFERENCES.keys())
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_results(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'[{"image_id": 1, "caption": "caf\xe9"}]')
    with pytest.raises(DataError, match="not UTF-8"):
        load_results(tmp_path / "latin.json")


def test_an_empty_caption_is_scored_not_refused(tmp_path: Path) -> None:
    save_results(tmp_path / "results.json", {1: "", 2: "men talk"})
    assert score(REFERENCES, load_results(tmp_path / "results.json", REFERENCES.keys())).images == 2  # type: ignore[misc]
