"""`captioner evaluate` on results files: no model, no images, no torch."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from captioner.cli import main
from captioner.errors import ConfigError, DataError, ImageError
from captioner.evaluation.captioning import Captioning
from captioner.evaluation.evaluate import Scoring, evaluate
from captioner.evaluation.wording import left_out

ROOT = Path(__file__).parents[2]
REFERENCES = {
    7: ["A dog runs on grass.", "A brown dog is running."],
    8: ["Two men sit on a bench.", "Men are sitting."],
    9: ["A cat looks out of a window.", "A cat by the window."],
}
CAPTIONS = {7: "a dog runs on the", 8: "two men sit on a bench", 9: "a cat and a cat and a cat"}
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]


class Files(NamedTuple):
    annotations: Path
    results: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """COCO captions without their images, and results."""
    annotations = [
        {"id": 10 * image_id + number, "image_id": image_id, "caption": caption}
        for image_id, captions in REFERENCES.items()
        for number, caption in enumerate(captions)
    ]
    images = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in REFERENCES]
    write(tmp_path / "captions.json", {"images": images, "annotations": annotations})
    return Files(tmp_path / "captions.json", write_results(tmp_path / "ours.json", CAPTIONS))


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_results(path: Path, captions: dict[int, str]) -> Path:
    return write(
        path, [{"image_id": image_id, "caption": text} for image_id, text in captions.items()]
    )


def command(files: Files, *words: object) -> list[str]:
    call = ["evaluate", "--annotations", files.annotations, "--results", files.results, *words]
    return [str(word) for word in call]


def test_scoring_a_results_file_needs_no_model_images_or_torch(files: Files) -> None:
    code = (
        "import sys; from captioner.cli import main; print(main(sys.argv[1:])); print(*sys.modules)"
    )
    call = [sys.executable, "-c", code, *command(files)]
    result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    *table, status, modules = result.stdout.splitlines()
    assert (table[0].split(), status, result.stderr) == ([*NAMES, "images"], "0", "")
    assert not {"torch", "torchvision", "lightning", "onnxruntime", "matplotlib", "gradio"} & set(
        modules.split()
    )


def test_the_output_is_a_folder_of_everything(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    theirs = write_results(tmp_path / "theirs.json", CAPTIONS | {8: "a bench"})
    training = tmp_path / "training.csv"
    training.write_text("image,caption\nx.jpg,Two men sit on a bench!\n")
    categories = [{"id": 1, "name": "dog", "supercategory": "animal"}]
    objects = {"annotations": [{"image_id": 7, "category_id": 1}], "categories": categories}
    instances = write(tmp_path / "instances.json", objects)
    more = [
        "--compare",
        theirs,
        "--training-captions",
        training,
        "--instances",
        instances,
        "--output",
        output,
    ]
    assert main(command(files, *more)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "against theirs.json" in printed.out and ", p = " in printed.out

    assert sorted(path.name for path in output.iterdir()) == [
        "per_image.csv",
        "report.html",
        "results.json",
        "scores.json",
    ]
    assert json.loads((output / "results.json").read_text()) == json.loads(
        files.results.read_text()
    )
    scores = json.loads((output / "scores.json").read_text())
    assert [name for name in scores if name in NAMES] == NAMES
    for name in NAMES:
        low, high = scores["intervals"][name]
        assert low <= scores[name] <= high
    assert scores["health"]["bad endings"] == pytest.approx(1 / 3)
    assert scores["health"]["repeated trigrams"] == pytest.approx(1 / 3)
    assert scores["health"]["novel captions"] == pytest.approx(2 / 3)
    assert [group["name"] for group in scores["groups"]] == ["animal", "animal: dog", "no objects"]
    assert scores["comparison"]["differences"]["BLEU-1"]["difference"] > 0
    assert scores["facts"]["results"] == str(files.results)
    with (output / "per_image.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["image_id"], row["caption"]) for row in rows] == [
        (str(k), text) for k, text in CAPTIONS.items()
    ]
    assert sum(float(row["CIDEr-D"]) for row in rows) / 3 == pytest.approx(scores["CIDEr-D"])
    page = (output / "report.html").read_text(encoding="utf-8")
    assert all(caption in page for caption in CAPTIONS.values())


def test_an_input_results_file_is_not_overwritten(files: Files) -> None:
    entries = [
        {"image_id": image_id, "caption": text, "score": 1} for image_id, text in CAPTIONS.items()
    ]
    results = write(files.results.with_name("results.json"), entries)
    assert main(command(files._replace(results=results), "--output", results.parent)) == 0
    assert json.loads(results.read_text()) == entries


@pytest.mark.parametrize("option", ["--compare", "--training-captions", "--instances"])
def test_no_other_file_is_written_over(
    files: Files, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    theirs = write_results(output / "results.json", CAPTIONS)
    before = theirs.read_bytes()
    assert main(command(files, option, theirs, "--output", output)) == 2
    assert (
        f"would overwrite {theirs}; choose another folder than {output}" in capsys.readouterr().err
    )
    assert theirs.read_bytes() == before and list(output.iterdir()) == [theirs]
    own = files._replace(results=files.results.rename(output / "scores.json"))
    assert main(command(own, "--output", output)) == 2
    with pytest.raises(ConfigError, match="choose another folder"):
        evaluate(
            files.annotations, results=own.results, scoring=Scoring(against=theirs), output=output
        )


def test_a_file_may_be_compared_with_itself(files: Files, tmp_path: Path) -> None:
    results = files.results.rename(tmp_path / "results.json")
    assert (
        main(command(files._replace(results=results), "--compare", results, "--output", tmp_path))
        == 0
    )


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_odd_names_and_captions_are_printed_and_written(files: Files, tmp_path: Path) -> None:
    odd, output = tmp_path / "r\udcff.json", tmp_path / "out"
    write_results(odd, dict.fromkeys(CAPTIONS, "a \ud83d dog"))
    call = [
        sys.executable,
        "-m",
        "captioner",
        *command(files, "--compare", odd, "--output", output),
    ]
    result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")
    assert "against r\\udcff.json" in result.stdout
    assert main(command(files._replace(results=odd), "--output", output)) == 0
    for name in ("results.json", "scores.json", "per_image.csv", "report.html"):
        assert "dog" in (output / name).read_text(encoding="utf-8")
    call[call.index(str(files.results))] = str(odd)
    call[call.index(str(odd), call.index("--compare"))] = str(files.results)
    result = subprocess.run(
        call, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"most frequent, 3 times: a \\ufffd dog" in result.stdout


def test_images_without_references_are_reported(files: Files) -> None:
    dataset = json.loads(files.annotations.read_text())
    write(
        files.annotations,
        dataset | {"images": dataset["images"] + [{"id": 10, "file_name": "10.jpg"}]},
    )
    call = [sys.executable, "-m", "captioner", *command(files)]
    result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = result.stderr.splitlines()
    assert line.startswith("WARNING: ")
    assert line.endswith(
        "captions.json: only 3 of 4 images have reference captions; the others are not scored"
    )


def test_scoring_again_gives_the_same_files(files: Files, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(command(files, "--output", tmp_path / name)) == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_missing_captions_must_be_allowed(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_results(tmp_path / "few.json", {8: "two men", 9: "a cat"})
    other = write_results(tmp_path / "other.json", {7: "a dog", 9: "a cat at a window"})
    assert main(command(files._replace(results=few))) == 2
    assert "1 of 3 annotated images has no caption: image 7" in capsys.readouterr().err
    assert main(command(files._replace(results=few), "--allow-missing")) == 0
    assert "2 of 3 annotated images were scored." in capsys.readouterr().out
    both = evaluate(
        files.annotations, results=few, scoring=Scoring(against=other, allow_missing=True)
    )
    assert both.image_ids == (9,), "those that both have"
    assert both.comparison is not None and both.comparison.missing == 1
    assert left_out(both)[1:] == ["Without a caption: 1.", "Captioned, but not in other.json: 1."]
    write_results(other, {7: "a dog"})
    with pytest.raises(DataError, match="No annotated image has a caption by every system"):
        evaluate(files.annotations, results=few, scoring=Scoring(against=other, allow_missing=True))


def test_without_java_all_other_scores_are_printed(files: Files, tmp_path: Path) -> None:
    call = [
        sys.executable,
        "-m",
        "captioner",
        *command(files, "--metrics", "meteor,rouge,spice,cider"),
    ]
    environment = os.environ | {"PATH": str(tmp_path)}
    result = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout.splitlines()[0].split() == ["ROUGE-L", "CIDEr-D", "images"]
    first, second = result.stderr.splitlines()
    assert first.startswith("error: METEOR requires ") and second.startswith(
        "error: SPICE requires "
    )
    with pytest.raises(
        ConfigError, match="Unknown metric 'blue'; expected some of bleu, rouge, cider, meteor"
    ):
        evaluate(files.annotations, results=files.results, scoring=Scoring(["blue"]))


@pytest.mark.parametrize("metrics", ["bleu", "rouge", "cider", "cider,bleu"])
def test_any_metrics_can_be_asked_for_alone(files: Files, tmp_path: Path, metrics: str) -> None:
    assert main(command(files, "--metrics", metrics, "--output", tmp_path / "out")) == 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "folder"], "--results cannot be combined with --model"),
        (["--beam-size", 3], "--results cannot be combined with --beam-size"),
        (["--backend", "auto"], "--results cannot be combined with --backend"),
        (["--device", "cpu"], "--results cannot be combined with --device"),
        (["--batch-size", 32], "--results cannot be combined with --batch-size"),
        (
            ["--metrics", "bleu,"],
            "The list of metrics has an empty name before or after a comma; expected some of bleu",
        ),
        (["--metrics", ""], "No metrics given"),
        (["--metrics", "bleu,blue"], "Unknown metric 'blue'"),
        (["--compare", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--instances", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--training-captions", "nowhere.json"], "nowhere.json: cannot be read"),
    ],
)
def test_a_wrong_call_is_one_line(
    files: Files, more: list[object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(files, *more)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and said in line


def test_an_image_that_cannot_be_read_is_left_out_only_if_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    cat = ROOT / "examples" / "cat.jpg"
    annotations = tmp_path / "captions.csv"
    annotations.write_text(f"image,caption\nbroken.jpg,a dog\n{cat},a cat\nmissing.jpg,a bird\n")
    found = evaluate(
        annotations,
        captioning=Captioning(decoding={"sample": True, "seed": 1, "top_k": 5}),
        scoring=Scoring(allow_missing=True),
    )
    assert (found.image_ids, found.annotated, found.paths) == ((str(cat),), 3, (cat,))
    assert found.facts["decoding"]["top_k"] == 5
    assert "broken.jpg: is empty" in caplog.text and "missing.jpg" in caplog.text
    results = write(tmp_path / "results.json", "from an earlier run")
    with pytest.raises(
        DataError, match="None of the 3 annotated images can be read, so there is nothing to score"
    ):
        (tmp_path / "lost.csv").write_text(
            "image,caption\nbroken.jpg,a dog\n1.jpg,a cat\n2.jpg,a bird\n"
        )
        evaluate(tmp_path / "lost.csv", scoring=Scoring(allow_missing=True), output=tmp_path)
    assert json.loads(results.read_text()) == "from an earlier run"
    with pytest.raises(DataError, match="1 of 3 images are missing"):
        evaluate(annotations)
    annotations.write_text(f"image,caption\nbroken.jpg,a dog\n{cat},a cat\n")
    with pytest.raises(ImageError, match="is empty"):
        evaluate(annotations)


@pytest.mark.parametrize("name", ["captions.tsv", "captions.txt", "captions.csv", "captions.jsonl"])
def test_the_file_of_captioner_caption_is_scored_as_its_captions(
    checkpoint_folder: Path,
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    for number, image_id in enumerate(REFERENCES):
        Image.new("RGB", (80, 80), (0, 90 * number, 0)).save(tmp_path / f"{image_id}.jpg")
    model = ["--model", str(checkpoint_folder)]
    assert main(["caption", str(tmp_path), "--output", str(tmp_path / name), *model]) == 0
    of_file = files._replace(results=tmp_path / name)
    assert main(command(of_file, "--output", tmp_path / "of_file")) == 0
    captioned = ["evaluate", "--annotations", str(files.annotations), "--output"]
    assert main([*captioned, str(tmp_path / "captioned"), *model]) == 0
    capsys.readouterr()
    results = [(tmp_path / way / "per_image.csv").read_bytes() for way in ("of_file", "captioned")]
    assert results[0] == results[1]
