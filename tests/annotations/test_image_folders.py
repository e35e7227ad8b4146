"""The search for the image folder of a JSON file."""

import json
import shutil
from pathlib import Path

import pytest

from captioner.annotations.records import check_images, find_missing, load_records
from captioner.errors import DataError
from tests.coco import draw_coco, karpathy


@pytest.mark.parametrize("year", [2014, 2017])
@pytest.mark.parametrize("half", ["train", "val"])
def test_the_official_layout_is_found(tmp_path: Path, half: str, year: int) -> None:
    drawn = draw_coco(tmp_path, year=year)
    path = tmp_path / "annotations" / f"captions_{half}{year}.json"
    expected = {
        image.number: tmp_path / image.half / image.file_name
        for image in drawn
        if image.half == f"{half}{year}"
    }
    for images in (None, tmp_path, tmp_path / f"{half}{year}"):
        records = load_records(path, images)
        assert {record.image_id: record.path for record in records} == expected
        assert not find_missing(records)


@pytest.mark.parametrize(
    "place", ["images/train2017", "images", ".", "annotations", "annotations/images"]
)
def test_other_places_of_coco_are_found(tmp_path: Path, place: str) -> None:
    draw_coco(tmp_path / "drawn", year=2017, train=3, val=1)
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "captions_train2017.json"
    shutil.copy(tmp_path / "drawn" / "annotations" / path.name, path)
    shutil.copytree(tmp_path / "drawn" / "train2017", tmp_path / place, dirs_exist_ok=True)
    records = load_records(path)
    assert not find_missing(records)
    assert {record.path.parent for record in records} == {tmp_path / place}


@pytest.mark.parametrize("place", ["Flicker8k_Dataset", "images", "Images", "."])
def test_the_images_of_a_flickr_file_are_found(tmp_path: Path, place: str) -> None:
    drawn = draw_coco(tmp_path / "drawn", train=3, val=1)
    path = tmp_path / "dataset_flickr8k.json"
    path.write_text(json.dumps(karpathy(drawn, dataset="flickr8k")), encoding="utf-8")
    shutil.copytree(tmp_path / "drawn" / "train2014", tmp_path / place, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "drawn" / "val2014", tmp_path / place, dirs_exist_ok=True)
    assert not find_missing(load_records(path, None, "train"))
    assert not find_missing(load_records(path, None, "val"))


def test_a_given_folder_comes_before_one_inside_it(tmp_path: Path) -> None:
    draw_coco(tmp_path, year=2017)
    shutil.copytree(tmp_path / "val2017", tmp_path / "small")
    shutil.copytree(tmp_path / "val2017", tmp_path / "small" / "val2017")
    records = load_records(tmp_path / "annotations" / "captions_val2017.json", tmp_path / "small")
    assert {record.path.parent for record in records} == {tmp_path / "small"}


def test_a_few_missing_or_stray_images_lead_nowhere_else(tmp_path: Path) -> None:
    drawn = [image for image in draw_coco(tmp_path, year=2017) if image.half == "train2017"]
    (tmp_path / "images").mkdir()
    for image in drawn[:3]:  # the first are only where one would look later
        (tmp_path / "train2017" / image.file_name).rename(tmp_path / "images" / image.file_name)
    records = load_records(tmp_path / "annotations" / "captions_train2017.json")
    assert {record.path.parent for record in records} == {tmp_path / "train2017"}
    assert [record.path.name for record in find_missing(records)] == [
        image.file_name for image in drawn[:3]
    ]


def test_images_that_are_nowhere_are_missing_beside_the_file_or_where_it_was_said(
    tmp_path: Path,
) -> None:
    draw_coco(tmp_path, year=2017)
    path = tmp_path / "annotations" / "captions_train2017.json"
    shutil.rmtree(tmp_path / "train2017")
    for images, place in (
        (None, path.parent),
        (tmp_path, tmp_path),
        (tmp_path / "photos", tmp_path / "photos"),
    ):
        with pytest.raises(DataError) as caught:
            check_images(load_records(path, images))
        assert f"12 of 12 images are missing in {place}: " in str(caught.value)
