"""Groups of images by object category, and their scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.evaluation.cider import cider_d
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.groups import read_groups, score_groups
from captioner.evaluation.metric import Measured
from captioner.evaluation.scoring import Scored, score_corpus

CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 17, "name": "cat", "supercategory": "animal"},
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 90, "name": "kite"},
]
OBJECTS = [(10, 18), (10, 18), (10, 17), (20, 18), (20, 1), (99, 90), (30, 1)]


def write(path: Path, **changes: Any) -> Path:
    annotations = [
        {"id": n, "image_id": image, "category_id": kind} for n, (image, kind) in enumerate(OBJECTS)
    ]
    path.write_text(
        json.dumps({"images": [], "annotations": annotations, "categories": CATEGORIES} | changes)
    )
    return path


def test_an_image_is_in_the_groups_of_all_its_objects(tmp_path: Path) -> None:
    members = read_groups(write(tmp_path / "instances.json"), [10, 20, 30, 40])
    assert list(members.items()) == [
        ("person", {20, 30}),
        ("animal", {10, 20}),
        ("person: person", {20, 30}),
        ("animal: cat", {10}),
        ("animal: dog", {10, 20}),
        ("no objects", {40}),
    ]


def test_a_group_is_scored_with_the_document_frequencies_of_the_whole_set() -> None:
    references = {10: ["a dog runs"], 20: ["a dog sits on grass"], 30: ["two men sit"]}
    captions = {10: "a dog runs", 20: "a cat sits on", 30: "men sit"}
    corpus = Corpus(references, captions)
    scored = score_corpus(corpus)
    groups = score_groups(
        scored,
        list(references),
        {"dogs": {10, 20, 99}, "men": {30}, "none": {98}, "all": {10, 20, 30}},
    )
    assert [(group.name, group.n_images) for group in groups] == [
        ("dogs", 2),
        ("men", 1),
        ("all", 3),
    ]
    dogs, men, everything = groups
    _, per_image = cider_d(corpus.reference_tokens, corpus.caption_tokens)
    assert dogs.scores["CIDEr-D"] == pytest.approx(per_image[:2].mean())
    assert men.scores["CIDEr-D"] == pytest.approx(per_image[2])
    alone = score_corpus(
        Corpus({i: references[i] for i in (10, 20)}, {i: captions[i] for i in (10, 20)})
    )
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert dogs.scores[name] == pytest.approx(alone.scores[name])
    assert not np.isclose(dogs.scores["CIDEr-D"], alone.scores["CIDEr-D"])
    assert everything.scores == pytest.approx(scored.scores)


def test_a_group_of_images_with_scores_has_one_though_another_image_has_none() -> None:
    """SPICE may have no score of an image."""
    found = Measured.mean("SPICE", np.array([0.2, np.nan, 0.4]))
    scored = Scored({"spice": found})
    groups = score_groups(scored, [10, 20, 30], {"dogs": {10, 30}, "men": {20, 30}, "cats": {20}})
    dogs, men, cats = (group.scores["SPICE"] for group in groups)
    assert dogs == pytest.approx(0.3)
    assert np.isnan([men, cats, scored.scores["SPICE"]]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": None}, "not a COCO instances file"),
        (
            {"annotations": [{"image_id": 10, "caption": "a dog"}]},
            r'annotations\[0\]: expected "image_id", and',
        ),
        (
            {"annotations": [{"image_id": 10, "category_id": 5}]},
            r'annotations\[0\]: expected "image_id", and',
        ),
        ({"annotations": [7]}, r'annotations\[0\]: expected "image_id", and'),
        ({"annotations": []}, "no objects in any of the 3 annotated images"),
        ({"categories": [{"id": 1}]}, r'categories\[0\]: expected "id" and "name"'),
        ({"categories": [{"id": [1], "name": "x"}]}, r'categories\[0\]: expected "id" and "name"'),
    ],
)
def test_a_file_without_objects_is_an_error(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_groups(write(tmp_path / "instances.json", **changes), [10, 20, 30])


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_groups(tmp_path / "none.json", [10])
