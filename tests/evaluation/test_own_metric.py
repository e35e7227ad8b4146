"""A custom metric on embeddings of images and captions, by the command and in Python."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.cli import main
from captioner.errors import CaptionerError, DataError
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.evaluate import Scoring, evaluate
from captioner.evaluation.metric import Measured, Need
from captioner.evaluation.metrics import METRICS
from captioner.evaluation.scoring import score_corpus

GREYS = {"c": 0, "a": 255, "b": 51}  # of the photos by image id, not in the order of the alphabet
CAPTIONS = {"a": "white white", "b": "black", "c": "black black black white"}


class Brightness:
    """Closeness of the share of white in a caption and in the photo: a 1-dimensional embedding."""

    names = ("Brightness",)
    needs: tuple[Need, ...] = ("images",)

    def compute(self, corpus: Corpus) -> Measured:
        shown = [
            np.asarray(Image.open(corpus.paths[i] or "").convert("L")).mean() / 255
            for i in corpus.references
        ]
        told = [
            corpus.captions[i].split().count("white") / len(corpus.captions[i].split())
            for i in corpus.references
        ]
        return Measured.mean("Brightness", 1 - np.abs(np.array(shown) - told))


EXPECTED = {"c": 0.75, "a": 1.0, "b": 0.8}


@pytest.fixture
def annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(METRICS, "brightness", Brightness())
    rows = ["image,caption"]
    for image_id, grey in GREYS.items():
        Image.new("L", (40, 40), grey).save(tmp_path / f"{image_id}.png")
        rows.append(f"{image_id}.png,a wall")
    (tmp_path / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    for name, captions in {"ours": CAPTIONS, "theirs": dict.fromkeys(CAPTIONS, "white")}.items():
        entries = [
            {"image_id": f"{image_id}.png", "caption": text} for image_id, text in captions.items()
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path / "captions.csv"


def test_the_command_scores_by_it_like_by_any_other(
    annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = annotations.parent
    call = ["evaluate", "--annotations", annotations, "--results", folder / "ours.json"]
    more = [
        "--metrics",
        "brightness,bleu",
        "--compare",
        folder / "theirs.json",
        "--output",
        folder / "out",
    ]
    assert main([str(word) for word in (*call, *more)]) == 0
    names = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "Brightness"]
    assert capsys.readouterr().out.split("\n")[0].split() == [*names, "images"]
    scores = json.loads((folder / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores["Brightness"] == pytest.approx(0.85)
    low, high = scores["intervals"]["Brightness"]
    assert 0.75 <= low <= 0.85 <= high <= 1.0
    assert scores["comparison"]["differences"]["Brightness"]["other"] == pytest.approx(
        (0 + 1 + 0.2) / 3
    )
    with (folder / "out" / "per_image.csv").open(newline="") as table:
        found = {row["image_id"]: float(row["Brightness"]) for row in csv.DictReader(table)}
    assert found == pytest.approx(
        {f"{image_id}.png": value for image_id, value in EXPECTED.items()}
    )
    assert "Brightness" in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_the_commands_help_lists_it(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "--help"])
    assert "spice, chair, brightness;" in " ".join(capsys.readouterr().out.split())


def test_missing_images_are_reported_and_other_metrics_are_computed(
    annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = annotations.parent
    (folder / "a.png").unlink()
    call = ["evaluate", "--annotations", annotations, "--results", folder / "ours.json"]
    assert main([str(word) for word in (*call, "--metrics", "rouge,brightness")]) == 1
    printed = capsys.readouterr()
    assert printed.out.split("\n")[0].split() == ["ROUGE-L", "images"]
    (line,) = printed.err.splitlines()
    assert line.startswith(
        "error: Brightness requires the images, but 1 of 3 are missing, for example image 'a.png'"
    )
    with pytest.raises(DataError, match="1 of 3 are missing"):
        evaluate(annotations, results=folder / "ours.json", scoring=Scoring(["brightness"]))


def test_it_may_be_registered_by_module_and_is_imported_on_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_length.py").write_text(
        "import numpy as np\nfrom captioner.evaluation.metric import Measured\nclass Length:\n   "
        " names, needs = ('Length',), ()\n    def compute(self, corpus):\n        return"
        " Measured.mean('Length', np.array([float(len(t)) for t in"
        " corpus.caption_tokens.values()]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METRICS, "length", "own_length:Length")
    scored = score_corpus(
        Corpus({1: ["a dog"], 2: ["a cat"]}, {2: "a cat, a cat", 1: "dog!"}), ["length"]
    )
    assert scored.per_image["Length"].tolist() == [1, 4]
    assert scored.weighed(np.array([[2.0, 0.0], [1.0, 3.0]]))["Length"].tolist() == [1, 13 / 4]


class Counted:
    """A ratio of sums: no mean over images."""

    names = ("Ratio",)
    needs: tuple[Need, ...] = ()

    def compute(self, corpus: Corpus) -> Measured:
        counts = np.array(
            [[text.count("white"), len(text.split())] for text in corpus.captions.values()]
        )
        ratio: Callable[..., np.ndarray] = lambda sums: sums[..., :1] / sums[..., 1:]  # noqa: E731
        return Measured(
            {"Ratio": float(ratio(counts.sum(axis=0))[0])},
            {"Ratio": ratio(counts)[:, 0]},
            counts,
            ratio,
        )


def test_draws_of_images_are_scored_from_counts_where_a_metric_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METRICS, "ratio", Counted())
    corpus = Corpus({i: ["a wall"] for i in CAPTIONS}, CAPTIONS)
    scored = score_corpus(corpus, ["ratio", "rouge"])
    assert scored.scores["Ratio"] == pytest.approx(3 / 7)
    found = scored.weighed(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]]))
    assert found["Ratio"] == pytest.approx([3 / 7, 1 / 6])
    assert found["ROUGE-L"] == pytest.approx([0, 0])


def test_captions_of_other_images_fail_before_any_metric_runs() -> None:
    for references, captions in (
        ({}, {}),
        ({1: []}, {1: "a"}),
        ({1: ["a"]}, {}),
        ({1: ["a"]}, {1: "a", 2: "b"}),
    ):
        with pytest.raises(CaptionerError):
            Corpus(references, captions)
