"""The output folder: earlier results are replaced only by complete ones."""

import csv
import json
from pathlib import Path

import pytest

from captioner.evaluation.evaluate import Scoring, evaluate
from captioner.evaluation.output import saved_captions

CAPTIONS = {"a.png": "a cat on a table", "b.png": "a dog in the grass"}


def test_old_captions_are_replaced_only_after_success(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "results.json"
    results.write_text("old")
    with pytest.raises(ZeroDivisionError), saved_captions(tmp_path, CAPTIONS, None):
        raise ZeroDivisionError
    assert results.read_text() == "old"
    kept = json.loads((tmp_path / "results.new.json").read_text())
    assert {entry["image_id"]: entry["caption"] for entry in kept} == CAPTIONS
    assert "results.new.json" in caplog.text
    with saved_captions(tmp_path, CAPTIONS, None):
        assert results.read_text() == "old"
    assert json.loads(results.read_text()) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_captions_are_saved_before_anything_is_scored(tmp_path: Path) -> None:
    with saved_captions(tmp_path, CAPTIONS, None):
        assert (tmp_path / "results.json").exists()


def test_a_failed_write_keeps_the_earlier_evaluation(tmp_path: Path) -> None:
    annotations = tmp_path / "captions.csv"
    annotations.write_text(
        "image,caption\n" + "".join(f"{name},{text}\n" for name, text in CAPTIONS.items())
    )
    results = tmp_path / "ours.json"
    results.write_text(
        json.dumps([{"image_id": name, "caption": text} for name, text in CAPTIONS.items()])
    )
    output = tmp_path / "out"
    scoring = Scoring(metrics=("bleu",))
    evaluate(annotations, results=results, output=output, scoring=scoring)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    (output / "report.html").unlink()
    (output / "report.html").mkdir()  # no page can be written there
    results.write_text(json.dumps([{"image_id": name, "caption": "a bird"} for name in CAPTIONS]))
    with pytest.raises(OSError, match=r"report\.html"):
        evaluate(annotations, results=results, output=output, scoring=scoring)
    for name in ("results.json", "scores.json", "per_image.csv"):
        assert (output / name).read_bytes() == before[name]
    assert {path.name for path in output.iterdir()} == {*before, "results.new.json"}


def test_a_caption_is_no_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    annotations = tmp_path / "captions.csv"
    annotations.write_text("image,caption\na.png,a dog\n=b.png,a cat\n")
    results = tmp_path / "ours.json"
    said = {"a.png": '=HYPERLINK("x")', "=b.png": "a cat"}
    results.write_text(json.dumps([{"image_id": k, "caption": v} for k, v in said.items()]))
    evaluate(
        annotations, results=results, output=tmp_path / "out", scoring=Scoring(metrics=("bleu",))
    )
    with (tmp_path / "out" / "per_image.csv").open(newline="") as table:
        cells = [cell for row in csv.reader(table) for cell in row]
    assert '\'=HYPERLINK("x")' in cells
    assert not any(cell.startswith("=") for cell in cells)
