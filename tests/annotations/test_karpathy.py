"""Karpathy's files: the images of each split, and errors in malformed files."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from captioner.annotations.records import Record, Split, find_missing, load_records
from captioner.errors import CaptionerError, ConfigError, DataError
from tests.coco import Drawn, draw_coco, karpathy


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Drawn]]:
    folder = tmp_path_factory.mktemp("coco")
    return folder, draw_coco(folder)


@pytest.mark.parametrize(
    ("split", "names", "size"),
    [("train", ("train", "restval"), 14), ("val", ("val",), 4), ("test", ("test",), 2)],
)
def test_a_split_of_coco(
    coco: tuple[Path, list[Drawn]], split: Split, names: tuple[str, ...], size: int
) -> None:
    folder, drawn = coco
    expected = [
        Record(image.number, folder / image.half / image.file_name, image.captions)
        for image in drawn
        if image.split in names
    ]
    records = load_records(folder / "dataset_coco.json", split=split)
    assert records == expected
    assert len(records) == size
    assert not find_missing(records)
    assert load_records(folder / "dataset_coco.json", folder, split) == expected


def test_the_splits_of_coco_are_the_official_halves(coco: tuple[Path, list[Drawn]]) -> None:
    folder, _ = coco
    splits: tuple[Split, ...] = ("train", "val", "test")
    ours = {
        record.path: record
        for split in splits
        for record in load_records(folder / "dataset_coco.json", None, split)
    }
    for half in ("train2014", "val2014"):
        for record in load_records(folder / "annotations" / f"captions_{half}.json"):
            same = ours.pop(record.path)
            assert same.image_id == record.image_id
            assert sorted(same.captions) == sorted(record.captions), "COCO's are in no order"
    assert not ours


def test_a_flickr_file_has_neither_folders_nor_ids_of_coco(
    coco: tuple[Path, list[Drawn]], tmp_path: Path
) -> None:
    drawn = coco[1][-4:]
    path = tmp_path / "dataset_flickr8k.json"
    path.write_text(json.dumps(karpathy(drawn, dataset="flickr8k")), encoding="utf-8")
    records = load_records(path, tmp_path / "photos", "val")
    assert records == [
        Record(index, tmp_path / "photos" / image.file_name, image.captions)
        for index, image in enumerate(drawn)
        if image.split == "val"
    ]


def test_other_files_are_loaded_whole_unless_strict(coco: tuple[Path, list[Drawn]]) -> None:
    path = coco[0] / "annotations" / "captions_val2014.json"
    assert load_records(path, None, "train") == load_records(path)
    with pytest.raises(
        DataError, match=r"captions_val2014\.json: the file has no splits.*--split train"
    ):
        load_records(path, None, "train", strict=True)
    load_records(coco[0] / "dataset_coco.json", None, "train", strict=True)


def test_a_split_must_be_named_and_have_images(
    coco: tuple[Path, list[Drawn]], tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"dataset_coco\.json: no split.* train \(14\), val \(4\), test \(2\)"
    ):
        load_records(coco[0] / "dataset_coco.json")
    path = tmp_path / "dataset_coco.json"
    path.write_text(
        json.dumps(karpathy([image for image in coco[1] if image.split != "test"])),
        encoding="utf-8",
    )
    with pytest.raises(
        DataError, match=r"no images in split 'test'.* train \(14\), val \(4\), for"
    ):
        load_records(path, None, "test")
    with pytest.raises(ConfigError, match=r"no split 'dev'; expected train, val, test"):
        load_records(path, None, "dev")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "dev"}, "\"split\" is 'dev'; expected one of train, restval, val, test"),
        ({"split": None}, 'expected "split"'),
        ({"sentences": []}, 'expected "sentences", a non-empty list'),
        ({"sentences": "a dog"}, 'expected "sentences"'),
        ({"sentences": ["a dog"]}, 'sentences[0]: expected "raw"'),
        (
            {"sentences": [{"raw": "a dog"}, {"tokens": ["a", "dog"]}]},
            'sentences[1]: expected "raw"',
        ),
        ({"sentences": [{"raw": "a dog"}, {"raw": " "}]}, "sentences[1]: the caption is empty"),
        ({"filename": ""}, 'expected "filename"'),
        ({"filepath": None}, 'expected "filepath"'),
        ({"cocoid": 9}, "duplicate image id 9"),
        ({"cocoid": None}, 'expected "cocoid"'),
    ],
)
def test_a_malformed_image_is_a_one_line_error_with_its_position(
    coco: tuple[Path, list[Drawn]], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    dataset = deepcopy(karpathy(coco[1]))
    dataset["images"][5].update(change)
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_records(path, None, "train")
    message = str(caught.value)
    assert message.startswith(f"{path}, images[5]")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "images", [[], ["a.jpg"], [{"split": "val"}], [{"sentences": []}, 3], {}, None]
)
def test_what_only_looks_like_such_a_file_is_refused(tmp_path: Path, images: object) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"dataset": "coco", "images": images}), encoding="utf-8")
    with pytest.raises(CaptionerError, match=r"dataset\.json"):
        load_records(path, None, "val")
