"""Tables as spreadsheets and people write them: headers, paths, hints."""

import json
import unicodedata
from pathlib import Path

import pytest

from captioner.annotations.paths import hint
from captioner.annotations.records import Record, check_images, load_records
from captioner.errors import DataError


def write(folder: Path, text: str, name: str = "own.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "im").mkdir()
    for name in ("a.jpg", "B.JPG", unicodedata.normalize("NFD", "é.jpg")):
        (tmp_path / "im" / name).touch()
    return tmp_path


def test_rows_that_a_spreadsheet_left_empty_are_passed_over(folder: Path) -> None:
    path = write(folder, "image,caption,\r\nim/a.jpg,A dog,\r\n\r\n,,\r\n , ,\r\n,,,,\r\n")
    assert load_records(path) == [Record("im/a.jpg", folder / "im" / "a.jpg", ("A dog",))]
    with pytest.raises(DataError, match=r'line 3: expected "image"'):
        load_records(write(folder, "image,caption\nim/a.jpg,A dog\n,A cat\n"))


@pytest.mark.parametrize("header", ["Image,Caption", "IMAGE, caption", " image ,Caption "])
def test_headers_in_other_letters(folder: Path, header: str) -> None:
    assert load_records(write(folder, f"{header}\nim/a.jpg,A dog\n"))[0].captions == ("A dog",)
    first, second = header.split(",")
    line = json.dumps({first: "im/a.jpg", second: "A dog"})
    assert load_records(write(folder, line, "own.jsonl"))[0].captions == ("A dog",)


def test_ambiguous_headers_are_errors(folder: Path) -> None:
    (record,) = load_records(write(folder, "Image,image,caption\nx,im/a.jpg,A dog\n"))
    assert record.image_id == "im/a.jpg"
    with pytest.raises(DataError, match="duplicate column 'image'"):
        load_records(write(folder, "Image,IMAGE,caption\nx,im/a.jpg,A dog\n"))
    with pytest.raises(DataError, match="separated by semicolons"):
        load_records(write(folder, "Image;Caption\nim/a.jpg;A dog\n"))


@pytest.mark.parametrize("name", ["im/a.jpg ", "\tim/a.jpg", "im\\a.jpg", " im\\a.jpg "])
def test_unambiguous_spellings_of_a_path_are_accepted(folder: Path, name: str) -> None:
    path = write(folder, f"image,caption\n{name},A dog\nim/a.jpg,A cat\n")
    assert load_records(path) == [Record(name, folder / "im" / "a.jpg", ("A dog", "A cat"))], (
        "one image"
    )
    check_images(load_records(path))
    coco = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "A dog"}],
    }
    check_images(load_records(write(folder, json.dumps(coco), "own.json")))


def test_spellings_of_one_path_are_one_image(folder: Path) -> None:
    names = ["im/a.jpg", "./im/a.jpg", "im//a.jpg", "im/./a.jpg", str(folder / "im" / "a.jpg")]
    rows = "".join(f"{name},caption {number}\n" for number, name in enumerate(names))
    (record,) = load_records(write(folder, f"image,caption\n{rows}im/b.jpg,x\n"))[:-1]
    assert (record.image_id, record.path) == (names[0], folder / "im" / "a.jpg")
    assert record.captions == tuple(f"caption {number}" for number in range(len(names)))
    (folder / "im" / "up").symlink_to(folder)  # im/up/.. is the parent of folder
    path = write(folder, "image,caption\nim/a.jpg,x\nim/up/../a.jpg,y\n")
    assert len(load_records(path)) == 2, "a step back after a link leads elsewhere"


def test_accents_in_either_form(folder: Path) -> None:
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "im/é.jpg")
        check_images(load_records(write(folder, f"image,caption\n{name},A dog\n")))


def test_what_is_written_so_on_the_disk_is_taken_so(folder: Path) -> None:
    for name in ("im/a.jpg ", "im\\a.jpg"):
        (folder / name).touch()
        (record,) = load_records(write(folder, f"image,caption\n{name},A dog\n"))
        assert record.path == folder / name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("im/A.jpg", "im/a.jpg exists, but the annotations say "),
        ("IM/b.jpg", "im/B.JPG exists, but the annotations say "),
        ("im\\A.jpg", "im/a.jpg exists"),
        ("C:\\photos\\a.jpg", "a Windows path"),
        ("D:/photos/a.jpg", "a Windows path"),
        ("\\\\server\\a.jpg", "a Windows path"),
        ("im/none.jpg ", "spaces around the name"),
        ("im\\none.jpg", "backslashes"),
        ("im/none.jpg", ""),
    ],
)
def test_the_rest_gets_a_hint(folder: Path, name: str, said: str) -> None:
    (record,) = load_records(write(folder, f"image,caption\n{name},A dog\n"))
    assert said in hint(record.path)
    assert bool(said) == bool(hint(record.path))
    with pytest.raises(DataError) as caught:
        check_images([record])
    assert said in str(caught.value)


def test_two_files_that_differ_only_in_case_give_no_hint(folder: Path) -> None:
    (folder / "im" / "b.jpg").touch()
    assert hint(folder / "im" / "B.jpg") == ""


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("dataset_coco.json", "captioner prepare-coco"),
        ("captions_val2014.json", "captioner prepare-coco"),
        ("captions_train2017.json", "captioner prepare-coco --year 2017"),
    ],
)
def test_a_missing_coco_file_names_the_command_that_downloads_it(
    tmp_path: Path, name: str, command: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_records(tmp_path / "data" / name)
    assert str(caught.value).endswith(f": {command}")
    with pytest.raises(DataError) as caught:
        load_records(tmp_path / "data" / "captions_own.json")
    assert "prepare-coco" not in str(caught.value)
