"""Records from annotation files of every format, and errors in malformed files."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.annotations.records import Record, check_images, find_missing, load_records
from captioner.errors import CaptionerError, DataError

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "categories": [{"id": 1, "name": "dog"}],
    "images": [
        {"id": 7, "file_name": "seven.jpg"},
        {"id": 3, "file_name": "sub/three.jpg"},
        {"id": 9, "file_name": "no-captions.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "A dog."},
        {"id": 2, "image_id": 7, "caption": "A cat."},
        {"id": 3, "image_id": 3, "caption": " A “café”\n"},
    ],
}


def write(path: Path, content: str | dict[str, Any] | list[Any]) -> Path:
    path.write_text(
        content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
        encoding="utf-8",
    )
    return path


def test_coco_json_gathers_captions_in_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.json", COCO)
    assert load_records(path, tmp_path / "images") == [
        Record(7, tmp_path / "images" / "seven.jpg", ("A cat.",)),
        Record(3, tmp_path / "images" / "sub" / "three.jpg", ("A dog.", " A “café”\n")),
    ]


def test_coco_json_with_text_ids_and_a_byte_order_mark(tmp_path: Path) -> None:
    content = json.dumps(COCO).replace(": 7", ': "seven"').replace(": 3", ': "three"')
    path = tmp_path / "captions.json"
    path.write_text(content, encoding="utf-8-sig")
    assert [record.image_id for record in load_records(str(path), None)] == ["seven", "three"]


def test_reading_coco_json_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_records(write(tmp_path / "captions.json", COCO), None)
    assert capsys.readouterr() == ("", "")


def test_csv_gathers_rows_of_an_image_and_finds_images_beside_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.csv",
        'caption,image,by\n"A dog, wet",b.jpg,me\nA cat,a.jpg,you\n"Two\nlines",b.jpg,me\n',
    )
    assert load_records(path, None) == [
        Record("b.jpg", tmp_path / "b.jpg", ("A dog, wet", "Two\nlines")),
        Record("a.jpg", tmp_path / "a.jpg", ("A cat",)),
    ]


def test_csv_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "own.CSV"
    path.write_bytes("\ufeffimage,caption\r\na.jpg,Ein Café\r\n".encode())
    assert load_records(path, tmp_path / "photos") == [
        Record("a.jpg", tmp_path / "photos" / "a.jpg", ("Ein Café",))
    ]


def test_json_lines_with_empty_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl",
        '{"image": "a.jpg", "caption": "One"}\n\n{"caption": "Two", "image": "a.jpg"}\n',
    )
    assert load_records(path, None) == [Record("a.jpg", tmp_path / "a.jpg", ("One", "Two"))]


def test_absolute_image_paths_stay(tmp_path: Path) -> None:
    image = tmp_path / "elsewhere" / "a.jpg"
    path = write(tmp_path / "own.jsonl", json.dumps({"image": str(image), "caption": "One"}))
    assert load_records(path, tmp_path / "images")[0].path == image


def without(**changes: Any) -> dict[str, Any]:
    return {**COCO, **changes}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.json",
            '{"images": [\n1,\n',
            "line 3: invalid JSON (Expecting value at column 1); the file is empty or trunc",
        ),
        ("a.json", json.dumps(COCO)[:-60], "truncated"),
        ("a.json", json.dumps(COCO)[:-3], "truncated"),
        ("a.json", "", "line 1: invalid JSON (Expecting value at column 1); the file is empty"),
        (
            "a.json",
            '{"images": [1 2]}',
            "line 1: invalid JSON (Expecting ',' delimiter at column 15)",
        ),
        ("a.json", '{"images": ' + "[" * 100_000, "JSON cannot be parsed"),
        ("a.json", f'{{"images": {"1" * 5000}}}', "JSON cannot be parsed"),
        ("a.json", [1], "not COCO captions JSON but a list"),
        (
            "a.json",
            [{"image_id": 1, "caption": "x"}],
            "this is a results file",
        ),
        ("a.json", {"images": []}, "expected COCO captions JSON"),
        ("a.json", without(images=[{"file_name": "a.jpg"}]), 'images[0]: expected "id"'),
        ("a.json", without(images=["a.jpg"]), "images[0]: expected a JSON object"),
        ("a.json", without(images=[{"id": 1}]), 'images[0]: expected "file_name"'),
        (
            "a.json",
            without(images=[{"id": 1, "file_name": "a"}] * 2),
            "images[1]: duplicate image id 1",
        ),
        (
            "a.json",
            without(annotations=[{"id": 1, "image_id": 8, "caption": "x"}]),
            "annotations[0]: image id 8 is not",
        ),
        (
            "a.json",
            without(annotations=[{"id": 1, "image_id": "3", "caption": "x"}]),
            "image id '3' is not in \"images\" (but a number with the same digits is)",
        ),
        (
            "a.json",
            {
                "images": [{"id": "3", "file_name": "a"}],
                "annotations": [{"id": 1, "image_id": 3, "caption": "x"}],
            },
            'image id 3 is not in "images" (but a string with the same digits is)',
        ),
        (
            "a.json",
            without(annotations=[{"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1]}]),
            'annotations[0]: no "caption"; this is an instances file',
        ),
        (
            "a.json",
            without(annotations=COCO["annotations"] * 2),
            "annotations[3]: duplicate annotation id 1",
        ),
        (
            "a.json",
            without(annotations=[{"id": 1, "image_id": True, "caption": "x"}]),
            'expected "image_id"',
        ),
        (
            "a.json",
            without(annotations=[{"id": 1, "image_id": 3, "caption": None}]),
            'expected "caption"',
        ),
        (
            "a.json",
            without(annotations=[{"id": 1, "image_id": 3, "caption": " "}]),
            "the caption is empty",
        ),
        (
            "a.json",
            without(annotations=[{"image_id": 3, "caption": "x"}]),
            'annotations[0]: expected "id"',
        ),
        ("a.json", without(annotations=[]), "no captions"),
        ("a.csv", "", "no column 'image' and 'caption'"),
        (
            "a.csv",
            "image;caption\na.jpg;x\n",
            "whose columns are separated by semicolons; save the file with commas",
        ),
        ("a.csv", '"by"\t"caption"\t"image"\nme\tx, y\ta.jpg\n', "separated by tabs"),
        ("a.csv", "image| caption\na.jpg| x\n", "separated by bars"),
        ("a.csv", "a.jpg,A dog\n", "first line; expected image,caption"),
        ("a.csv", "image,caption,caption\na.jpg,x,y\n", "duplicate column 'caption'"),
        ("a.csv", "image,caption\na.jpg,x\nb.jpg,A dog, wet\n", "line 3: more values than columns"),
        (
            "a.csv",
            'image,caption\na.jpg,x\nb.jpg,"A dog\nc.jpg,y\n',
            "line 3: invalid CSV (unexpected end of data)",
        ),
        ("a.csv", "image,text\na.jpg,x\n", "no column 'caption'"),
        ("a.csv", "image,caption\n", "no captions"),
        ("a.csv", "image,caption\na.jpg,x\nb.jpg\n", 'line 3: expected "caption"'),
        ("a.csv", "image,caption\n,x\n", 'line 2: expected "image"'),
        ("a.csv", "image,caption\na.jpg,\n", "line 2: the caption is empty"),
        ("a.jsonl", '{"image": "a", "caption": "x"}\n{"image"\n', "line 2: invalid JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("a.jsonl", '{"image": 1, "caption": "x"}\n', 'line 1: expected "image"'),
        ("a.jsonl", '{"image": "a"}\n', 'line 1: expected "caption"'),
        ("a.jsonl", "\n", "no captions"),
        ("a.tsv", "a dog", "must be a .json, .csv, .jsonl or .txt file (.json: COCO captions)"),
        ("a.txt", "a dog", "a.txt, line 1: expected a clip name and a caption"),
    ],
)
def test_a_malformed_file_is_a_one_line_error_with_its_position(
    tmp_path: Path, name: str, content: str | dict[str, Any] | list[Any], said: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load_records(path, None)
    message = str(caught.value)
    assert said in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl"])
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match="cannot be read"):
        load_records(path, None)
    path.write_bytes("image,caption\na.jpg,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}, line 2: not UTF-8"):
        load_records(path, None)


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("a.csv", "image,caption\n", "a.jpg,a dog runs\n"),
        ("a.jsonl", "\n", '{"image": "a.jpg", "caption": "a dog runs"}\n'),
    ],
)
def test_the_line_of_a_long_file_that_is_not_utf8_is_named(
    tmp_path: Path, name: str, head: str, row: str
) -> None:
    """Files are decoded in chunks."""
    path = tmp_path / name
    path.write_bytes((head + 5000 * row).encode() + row.replace("dog", "caf\xe9").encode("latin-1"))
    with pytest.raises(DataError, match=f"{name}, line 5002: not UTF-8"):
        load_records(path, None)


@pytest.mark.parametrize("suffix", [".json", ".csv", ".jsonl"])
@settings(deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=60), st.text('{}[]":,image_idcaption\n123 ', max_size=60).map(str.encode)
    )
)
def test_any_content_gives_records_or_an_error_for_users(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        records = load_records(path, None)
    except CaptionerError:
        return
    assert all(caption.strip() for record in records for caption in record.captions)


def test_check_images_names_the_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    there, *missing = (Record(letter, tmp_path / f"{letter}.jpg", ("x",)) for letter in "abcde")
    assert find_missing([there]) == []
    check_images([there])
    assert find_missing([there, *missing]) == missing
    with pytest.raises(DataError) as caught:
        check_images([there, *missing])
    assert f"4 of 5 images are missing in {tmp_path}: b.jpg, c.jpg, d.jpg, ...;" in str(
        caught.value
    )
    elsewhere = Record("f", tmp_path / "sub" / "f.jpg", ("x",))
    with pytest.raises(DataError) as caught:
        check_images([missing[0], elsewhere])
    assert f"2 of 2 images are missing: {missing[0].path}, {elsewhere.path};" in str(caught.value)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800", "."])
def test_an_image_that_can_be_no_file_is_missing(tmp_path: Path, name: str) -> None:
    (record,) = load_records(
        write(tmp_path / "own.jsonl", json.dumps({"image": name, "caption": "x"}))
    )
    assert find_missing([record]) == [record]


def test_ranks_and_authors_of_coco_json_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [
        {"id": 1, "file_name": "a.jpg", "captions_by": "human"},
        {"id": 2, "file_name": "b.jpg"},
    ]
    said = [(1, 3), (1, 1), (2, None), (2, None)]
    annotations = [
        {"id": number, "image_id": image, "caption": f"caption {number}"}
        | ({"rank": rank} if rank else {})
        for number, (image, rank) in enumerate(said)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    first, second = load_records(path)
    assert first.ranked() == [(3, "caption 0"), (1, "caption 1")]
    assert second.ranked() == [
        (1, "caption 2"),
        (1, "caption 3"),
    ], "in a file with ranks, those without are first ones"
    assert (first.captions_by, second.captions_by) == ("human", "")

    for wrong in (0, "1", 1.5, True):
        annotations[1]["rank"] = wrong
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
        with pytest.raises(DataError, match=r'annotations\[1\]: "rank" is .*; expected an integer'):
            load_records(path)
