"""Scores in a model card: those of the report, with the hallucination rate where it is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.evaluation.card import BEGIN, END
from captioner.hub.sharing import scores_in

CARD = "# A captioner\n\nIt describes photos.\n"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two photos of a dog; one caption names a cat and a dog, the other one nothing else."""
    monkeypatch.chdir(tmp_path)
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    texts = {1: "a dog on the grass", 2: "a dog plays"}
    captions = [{"id": i, "image_id": i, "caption": text} for i, text in texts.items()]
    objects = [{"id": i, "image_id": i, "category_id": 1} for i in texts]
    files = {
        "captions.json": {"images": images, "annotations": captions},
        "results.json": [
            {"image_id": 1, "caption": "a dog and a cat on the grass"},
            {"image_id": 2, "caption": "a dog plays"},
        ],
        "instances.json": {
            "images": images,
            "annotations": objects,
            "categories": [{"id": 1, "name": "dog"}],
        },
    }
    for name, content in files.items():
        Path(name).write_text(json.dumps(content))
    Path("README.md").write_text(CARD)
    words = "evaluate --annotations captions.json --results results.json --card README.md"
    return [*words.split(), "--output", "report"]


CHAIR = ["--metrics", "cider,chair", "--instances", "instances.json"]


def test_the_card_has_the_reports_scores_and_the_hallucination_rate(call: list[str]) -> None:
    assert main([*call, *CHAIR]) == 0
    text = Path("README.md").read_text()
    assert text.startswith(CARD)
    assert "Hallucination rate: 33.3 % of the objects" in text, "a cat, of three named"
    assert "50.0 % of the captions" in text
    written = json.loads(Path("report/scores.json").read_text())
    ((name, scores),) = scores_in(text)
    assert name == "captions.json, 2"
    assert scores["CIDEr-D"] == pytest.approx(100 * written["CIDEr-D"], abs=0.05)
    assert "| 33.3 | 50.0 |" in text


def test_a_second_evaluation_takes_the_place_of_the_first(call: list[str]) -> None:
    assert main([*call, *CHAIR]) == 0
    card = Path("README.md").read_text() + "\n## Licence\n\nMIT\n"
    Path("README.md").write_text(card)
    assert main(call) == 0
    text = Path("README.md").read_text()
    assert text.partition(BEGIN)[0] == card.partition(BEGIN)[0]
    assert text.partition(END)[2] == card.partition(END)[2]
    assert "BLEU-4" in text and "Hallucination" not in text and text.count(BEGIN) == 1


@pytest.mark.parametrize("content", [None, f"# A card\n{END}\n", f"# A card\n{BEGIN}\n"])
def test_a_card_that_cannot_be_written_is_refused_before_scoring(
    content: str | None, call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        Path("README.md").unlink()
    else:
        Path("README.md").write_text(content)
    assert main(call) == 2
    assert "README.md" in capsys.readouterr().err
    assert not Path("report").exists()
    assert content is None or Path("README.md").read_text() == content


@pytest.mark.skipif(os.name == "nt", reason="limits of file sizes are those of POSIX")
def test_the_scores_are_printed_even_if_the_card_cannot_be_written(call: list[str]) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        " from captioner.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-B", "-c", program, *call[:-2]]  # without --output
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "File too large" in done.stderr
    assert "CIDEr-D" in done.stdout
    assert Path("README.md").read_text() == CARD
