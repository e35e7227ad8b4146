"""CHAIR, compared with examples counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from captioner.cli import main
from captioner.errors import ConfigError, DataError
from captioner.evaluation.chair import OBJECTS, ChairMetric, objects, objects_named
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.metrics import METRICS
from captioner.evaluation.report_view import ranked_by, worst_and_best
from captioner.evaluation.results import save_results
from captioner.evaluation.scoring import score_corpus
from captioner.tags.matching import plural

# Of each image: the objects in it, a reference, a caption, how many objects that names, and how
# many of these are not there.
BY_HAND: dict[int, tuple[set[str], str, str, int, int]] = {
    1: ({"dog", "frisbee"}, "a puppy plays", "a man throws a frisbee to a dog", 3, 1),
    2: ({"pizza"}, "a pie on a table", "two pizzas on a dining table", 2, 0),
    3: (set(), "a sunset", "a sunset over the sea", 0, 0),
    4: ({"train"}, "a train arrives", "people at a train station wait with dogs and a dog", 3, 3),
}


def corpus() -> Corpus:
    return Corpus(
        {image: [row[1]] for image, row in BY_HAND.items()},
        {image: row[2] for image, row in BY_HAND.items()},
        objects={image: row[0] for image, row in BY_HAND.items()},
    )


def test_it_counts_objects_that_are_not_there() -> None:
    found = ChairMetric().compute(corpus())
    assert found.scores == {"CHAIR_i": pytest.approx(4 / 8), "CHAIR_s": pytest.approx(2 / 4)}
    assert found.per_image["CHAIR_i"] == pytest.approx([1 / 3, 0, 0, 1])
    assert found.per_image["CHAIR_s"] == pytest.approx([1, 0, 0, 1])
    scored = score_corpus(corpus(), ["chair"])
    drawn = scored.weighed(np.array([[1.0, 1, 1, 1], [2, 1, 1, 0], [0, 0, 1, 0]]))
    assert drawn["CHAIR_i"] == pytest.approx([4 / 8, 2 / 8, 0])
    assert drawn["CHAIR_s"] == pytest.approx([2 / 4, 2 / 4, 0])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A hot dog and a teddy bear.", ["hot dog", "teddy bear"]),
        ("hot-dogs and men on buses", ["hot dog", "person", "bus"]),
        ("a baby elephant near a baby", ["elephant", "person"]),
        ("two women ride horses past sheep", ["person", "horse", "sheep"]),
        ("a train on the train tracks", ["train"]),
        ("a traffic light and a wine glass", ["traffic light", "wine glass"]),
        ("knives, mice and cell phones", ["knife", "mouse", "cell phone"]),
        ("a man and another man", ["person", "person"]),
        ("a truck with a fire hydrant", ["truck", "fire hydrant"]),
        ("the sea at night", []),
        ("", []),
    ],
)
def test_objects_are_named_by_their_longest_phrase(text: str, named: list[str]) -> None:
    assert objects_named(text) == named


def test_the_list_has_cocos_80_objects_and_no_phrase_twice() -> None:
    header, *lines = OBJECTS.read_text(encoding="utf-8").splitlines()
    assert header == "object\tsynonyms"
    assert len(lines) == 81 and len(objects()) == 80
    owner: dict[str, str] = {}
    for line in lines:
        name, others = line.split("\t")
        for phrase in (name, *filter(None, others.split(", "))):
            assert phrase not in owner, f"{phrase} is told twice, of {name} and {owner[phrase]}"
            owner[phrase] = name
    for phrase, name in owner.items():
        assert owner.get(plural(phrase), name) == name, phrase


def test_it_needs_instances_and_says_so() -> None:
    plain = Corpus({1: ["a dog"]}, {1: "a cat"})
    with pytest.raises(
        ConfigError, match=r"CHAIR_i requires the objects in the images.*--instances"
    ):
        score_corpus(plain, ["chair"])
    with pytest.raises(DataError, match="no object of COCO's 80 categories"):
        score_corpus(Corpus({1: ["a dog"]}, {1: "a cat"}, objects={1: {"bolt"}}), ["chair"])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    names = sorted({name for row in BY_HAND.values() for name in row[0]})
    ids = {name: number for number, name in enumerate(names, 1)}
    places = [(image, ids[name]) for image, row in BY_HAND.items() for name in row[0]]
    instances = {
        "images": [],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [{"image_id": image, "category_id": kind} for image, kind in places],
    }
    captions = {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in BY_HAND],
        "annotations": [
            {"id": image, "image_id": image, "caption": row[1]} for image, row in BY_HAND.items()
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    save_results(tmp_path / "ours.json", {image: row[2] for image, row in BY_HAND.items()})
    save_results(tmp_path / "theirs.json", {image: row[1] for image, row in BY_HAND.items()})
    call = ["evaluate", "--annotations", tmp_path / "captions.json", "--results"]
    return [str(word) for word in (*call, tmp_path / "ours.json", "--metrics", "cider,chair")]


def test_the_command_puts_it_into_scores_and_report(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--instances", tmp_path / "instances.json", "--output", tmp_path / "out"]
    more += ["--compare", tmp_path / "theirs.json"]
    assert main([*files, *map(str, more)]) == 0
    printed = capsys.readouterr().out
    assert printed.split("\n")[0].split() == ["CIDEr-D", "CHAIR_i", "CHAIR_s", "images"]
    assert "lower is better" in printed
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["CHAIR_i"], scores["CHAIR_s"]) == (0.5, 0.5)
    assert scores["comparison"]["differences"]["CHAIR_i"]["other"] == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "CHAIR_i" in html and "lower is better" in html


def test_the_command_asks_for_instances_before_it_captions(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(files) == 2
    assert "--instances" in capsys.readouterr().err


def test_images_with_hallucinated_objects_are_ranked_worst(
    files: list[str], tmp_path: Path
) -> None:
    from captioner.evaluation.evaluate import Scoring, evaluate

    evaluation = evaluate(
        tmp_path / "captions.json",
        results=tmp_path / "ours.json",
        scoring=Scoring(["chair"], instances=tmp_path / "instances.json"),
    )
    assert ranked_by(evaluation) == "CHAIR_s"
    worst, best = worst_and_best(evaluation, 2)
    assert [evaluation.image_ids[index] for index in worst] == [4, 1]
    assert {evaluation.image_ids[index] for index in best} == {2, 3}
    assert list(METRICS)[-1] == "chair"
