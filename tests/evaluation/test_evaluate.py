"""Evaluation end to end: Karpathy's splits, and results files."""

import json
from pathlib import Path

import pytest

from captioner.cli import main, parse
from captioner.errors import DataError
from captioner.evaluation.evaluate import evaluate
from tests.coco import Drawn, draw_coco


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Drawn]]:
    folder = tmp_path_factory.mktemp("coco")
    return folder, draw_coco(folder)


def results_of(drawn: list[Drawn], split: str) -> list[dict[str, object]]:
    return [
        {"image_id": image.number, "caption": image.captions[1]}
        for image in drawn
        if image.split == split
    ]


def test_results_are_scored_on_their_split(coco: tuple[Path, list[Drawn]], tmp_path: Path) -> None:
    folder, drawn = coco
    results = tmp_path / "results.json"
    results.write_text(json.dumps(results_of(drawn, "test")), encoding="utf-8")
    scores = evaluate(folder / "dataset_coco.json", split="test", results=results)
    assert (scores.n_images, scores.scores["BLEU-1"]) == (2, pytest.approx(1))
    assert scores.health["novel captions"] == 0, "the captions of the train split are known"
    with pytest.raises(DataError, match="has no reference captions in the annotations"):
        evaluate(folder / "dataset_coco.json", split="val", results=results)
    with pytest.raises(DataError, match="no split given"):
        evaluate(folder / "dataset_coco.json", results=results)
    with pytest.raises(DataError, match="has no splits"):
        evaluate(folder / "annotations" / "captions_val2014.json", split="test", results=results)


def test_a_file_of_the_test_split_alone_is_scored(tmp_path: Path) -> None:
    """Without a train split it isn't known which captions are novel; all else is."""
    images = [
        {"imgid": n, "filename": f"{n}.jpg", "split": "test", "sentences": [{"raw": text}]}
        for n, text in enumerate(("a dog runs", "a cat sits"))
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    captions = [{"image_id": n, "caption": "a dog runs"} for n in range(2)]
    (tmp_path / "results.json").write_text(json.dumps(captions))
    found = evaluate(tmp_path / "dataset.json", split="test", results=tmp_path / "results.json")
    assert found.scores["BLEU-1"] == pytest.approx(4 / 6)
    assert "novel captions" not in found.health


def test_vatex_is_scored(tmp_path: Path) -> None:
    """Its file is a list, not an object with "images"."""
    clips = [
        {"videoID": "one_000010_000020", "enCap": ["a man runs"]},
        {"videoID": "two_000010_000020", "enCap": ["a dog sits"]},
    ]
    (tmp_path / "vatex.json").write_text(json.dumps(clips))
    captions = [{"image_id": clip["videoID"], "caption": "a man runs"} for clip in clips]
    (tmp_path / "results.json").write_text(json.dumps(captions))
    found = evaluate(tmp_path / "vatex.json", results=tmp_path / "results.json")
    assert found.scores["BLEU-1"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("given", [True, False])
def test_the_command_captions_a_split(
    coco: tuple[Path, list[Drawn]], tmp_path: Path, given: bool
) -> None:
    folder, drawn = coco
    call = ["evaluate", "--annotations", folder / "dataset_coco.json", "--split", "val"]
    images = ["--images", folder] if given else []
    assert main([str(word) for word in (*call, *images, "--output", tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [entry["image_id"] for entry in results] == [
        image.number for image in drawn if image.split == "val"
    ]
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["images"] == 4


def test_the_command_says_which_splits_there_are(
    coco: tuple[Path, list[Drawn]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--annotations", str(coco[0] / "dataset_coco.json")]) == 2
    assert "train (14), val (4), test (2), for example --split" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["evaluate", "--annotations", "dataset_coco.json", "--split", "restval"])
    assert "choose from" in capsys.readouterr().err
