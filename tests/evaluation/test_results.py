"""Results files: saving and loading, and errors in malformed files."""

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pycocotools.coco import COCO

from captioner.annotations.records import Record
from captioner.errors import DataError
from captioner.evaluation.results import load_captions, load_results, save_results
from captioner.library.tables import escape_formula, write_parquet
from captioner.video.subtitles import time_span

IDS = (1, 2)


def refusal(path: Path, image_ids: Collection[int | str] = IDS, **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        load_results(path, image_ids, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.integers() | st.text(), st.text(st.characters(exclude_categories=["Cs"])), min_size=1
    )
)
@example({1: "a number", "1": "text"})
def test_results_come_back_as_they_were_saved(
    tmp_path_factory: pytest.TempPathFactory, captions: dict[int | str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "results.json"
    save_results(path, captions)  # type: ignore[arg-type]
    assert load_results(path, captions.keys()) == captions


def official(image_ids: Collection[int]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image_id} for image_id in image_ids],
        "annotations": [],
    }
    coco.createIndex()
    return coco


def test_results_have_the_format_of_the_coco_server(tmp_path: Path) -> None:
    save_results(tmp_path / "results.json", {2: "ein Käfer", 1: ""})
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == [
        {"image_id": 2, "caption": "ein Käfer"},
        {"image_id": 1, "caption": ""},
    ]
    loaded = official(IDS).loadRes(str(tmp_path / "results.json"))
    assert {i: loaded.imgToAnns[i][0]["caption"] for i in IDS} == {2: "ein Käfer", 1: ""}


ENTRY = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 4) | st.sampled_from(["1", "two", None]),
        "caption": st.text("ab ") | st.none(),
    },
    optional={"score": st.floats(0, 1)},
)


@settings(deadline=None, max_examples=150)
@given(st.lists(ENTRY, max_size=4), st.booleans())
def test_accepted_results_equal_those_of_cocos_loader(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], allow_missing: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "entries.json"
    path.write_text(json.dumps(entries))
    sound = (
        bool(entries)
        and all(isinstance(entry["caption"], str) and entry["image_id"] in IDS for entry in entries)
        and len({entry["image_id"] for entry in entries}) == len(entries)
        and (allow_missing or len(entries) == len(IDS))
    )
    try:
        captions = load_results(path, IDS, allow_missing=allow_missing)
    except DataError:
        assert not sound
    else:
        assert sound
        loaded = official(IDS).loadRes(str(path)).imgToAnns
        assert captions == {image_id: texts[0]["caption"] for image_id, texts in loaded.items()}


def test_reading_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_results(tmp_path / "results.json", {1: "a", 2: "b"})
    load_results(tmp_path / "results.json", IDS)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"image_id": 1,\n', "line 2: invalid JSON"),
        ("image_id,caption\n1,x\n", "column 1) (expected a list of {"),
        ("", "line 1: invalid JSON"),
        ('{"image_id": 1, "caption": "x"}', "expected a list"),
        ('{"images": [], "annotations": []}', "these are annotations, not results"),
        ("[]", "the list is empty"),
        (
            '[1, {"image_id": 1, "caption": ""}, {"image_id": 2, "caption": ""}]',
            "entry 0: expected {",
        ),
        (
            (
                '[{"image_id": 1.0, "caption": ""}, {"image_id": 1, "caption": ""}, {"image_id": 2,'
                ' "caption": ""}]'
            ),
            "1.0",
        ),
        (
            (
                '[{"image_id": true, "caption": ""}, {"image_id": 1, "caption": ""}, {"image_id":'
                ' 2, "caption": ""}]'
            ),
            "true",
        ),
        (
            '[{"image_id": 1, "caption": ["x"]}, {"image_id": 2, "caption": ""}]',
            'image 1 must be a string, not ["x"]',
        ),
        (
            (
                '[{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}, {"image_id": 2,'
                ' "caption": ""}]'
            ),
            "entry 1: image 1 has a caption in entry 0 already",
        ),
        (
            (
                '[{"image_id": 3, "caption": "x"}, {"image_id": 1, "caption": ""}, {"image_id": 2,'
                ' "caption": ""}]'
            ),
            "entry 0: image 3 has no reference captions in the annotations",
        ),
        ('[{"image_id": 2, "caption": "x"}]', "1 of 2 annotated images has no caption: image 1; "),
    ],
)
def test_a_single_mistake_is_one_line_that_says_where(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    message = refusal(path)
    assert said in message
    assert "\n" not in message


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    entries = [
        {"image_id": 1, "caption": None},
        {"image_id": 2, "caption": "two"},
        {"image_id": 2, "caption": "two again"},
        {"image_id": "3", "caption": "three"},
        {"image": 4, "caption": "four"},
        *({"image_id": number, "caption": "?"} for number in range(100, 110)),
    ]
    path.write_text(json.dumps(entries))
    lines = refusal(path, range(1, 7)).splitlines()
    assert lines[0] == f"{path}: 14 entries cannot be used (counted from 0)"
    assert lines[1:] == [
        "  entry 0: the caption of image 1 must be a string, not null",
        "  entry 2: image 2 has a caption in entry 1 already; keep one of them",
        "  entry 3: image '3' is not in the annotations, but 3 is; write it as a number",
        "  entry 5: image 100 has no reference captions in the annotations",
        "  entry 6: image 101 has no reference captions in the annotations",
        "  and 8 more like that",
        (
            '  entry 4: expected {"image_id": ..., "caption": ...}, not {"image": 4, "caption":'
            ' "four"}'
        ),
        (
            "  3 of 6 annotated images have no caption: image 4, 5, 6; caption them, or score only"
            " the others with --allow-missing"
        ),
    ]


def test_missing_images_are_not_reported_if_no_entry_is_usable(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.json"
    path.write_text('[{"image_id": 1.0, "caption": ""}, {"image_id": 2.0, "caption": ""}]')
    assert refusal(path).splitlines()[1:] == [
        '  entry 0: "image_id" must be an integer or a string, not 1.0',
        '  entry 1: "image_id" must be an integer or a string, not 2.0',
    ]


def test_lone_surrogates_are_replaced_and_ids_with_one_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(
        '[{"image_id": 1, "caption": "a \\ud83d dog \\ude00"}, {"image_id": 2, "caption":'
        ' "\\ud83d\\ude00"}]'
    )
    assert load_results(path, IDS) == {1: "a \ufffd dog \ufffd", 2: "\U0001f600"}
    save_results(path, {"\ud83d": "a dog", "b": "half of \ud83d"})
    assert load_results(path, ["\ud83d", "b"]) == {"\ud83d": "a dog", "b": "half of \ufffd"}


def test_missing_captions_may_be_allowed_but_not_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    save_results(path, {2: "b"})
    assert load_results(path, range(1, 9), allow_missing=True) == {2: "b"}
    path.write_text('[{"image_id": 2, "caption": 2}]')
    assert "must be a string" in refusal(path, range(1, 9), allow_missing=True)
    path.write_text("[]")
    assert "the list is empty" in refusal(path, allow_missing=True)


def test_results_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'[{"image_id": 1, "caption": "caf\xe9"}]')
    assert "not UTF-8" in refusal(tmp_path / "latin.json")


RECORDS = [
    Record(1, Path("photos/summer/a.jpg"), ("a dog",)),
    Record(2, Path("photos/winter/a.jpg"), ("a cat",)),
    Record(3, Path("photos/winter/b.jpg"), ("a bus",)),
]


def test_paths_are_matched_from_their_ends(tmp_path: Path) -> None:
    rows = {"/elsewhere/winter/a.jpg": "two", "summer/a.jpg": "=one, quoted", "b.jpg": "3"}
    table, lines, plain = (tmp_path / f"captions.{suffix}" for suffix in ("csv", "jsonl", "tsv"))
    plain.write_text("".join(f"{path}\t{text}\tcat, dog\n" for path, text in rows.items()))
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", "log_prob"])
        writer.writerows([path, escape_formula(text), -1.5] for path, text in rows.items())
    lines.write_text(
        "\n".join(json.dumps({"path": path, "caption": text}) for path, text in rows.items())
    )
    expected = {2: "two", 1: "=one, quoted", 3: "3"}
    for path in (table, lines, plain):
        assert load_captions(path, RECORDS) == expected


def test_paths_match_however_their_accents_are_written(tmp_path: Path) -> None:
    """macOS gives the names of files decomposed; annotations usually have them composed."""
    composed, decomposed = "caf\xe9/\xe9t\xe9.jpg", "cafe\u0301/e\u0301te\u0301.jpg"
    for written, annotated in ((composed, decomposed), (decomposed, composed)):
        (tmp_path / "a.tsv").write_text(f"{written}\ta dog\n", encoding="utf-8")
        records = [Record(1, Path(annotated), ("a",)), Record(2, Path("bar/\xe9t\xe9.jpg"), ("b",))]
        assert load_captions(tmp_path / "a.tsv", records, allow_missing=True) == {1: "a dog"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["c.jpg,x"], "line 2: no annotated image has the file name 'c.jpg'"),
        (["a.jpg,x"], "line 2: 2 annotated images have the file name 'a.jpg'; write more"),
        (["b.jpg,x", "winter/b.jpg,y"], "image 3 has a caption in entry 0 already"),
        (["b.jpg,x"], "2 of 3 annotated images have no caption"),
        ([',"x'], "invalid CSV"),
    ],
)
def test_tables_that_do_not_fit_are_explained(tmp_path: Path, rows: list[str], reason: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("\n".join(["path,caption", *rows]))
    with pytest.raises(DataError, match=reason):
        load_captions(path, RECORDS)


def test_a_table_that_an_editor_saved_is_read(tmp_path: Path) -> None:
    """With the line ends of Windows, and an empty line at the end."""
    (tmp_path / "a.tsv").write_bytes(b"summer/a.jpg\tone\r\nb.jpg\ta b\tcat\r\n\r\n")
    found = load_captions(tmp_path / "a.tsv", RECORDS, allow_missing=True)
    assert found == {1: "one", 3: "a b"}


def test_every_table_that_captioner_writes_is_read_and_what_has_no_caption_is_missing(
    tmp_path: Path,
) -> None:
    rows = [{"path": f"{name}.jpg", "caption": f"the {name}"} for name in ("summer/a", "winter/a")]
    rows.append({"path": "b.jpg", "caption": None})  # as --min-confidence leaves it out
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "of.jsonl").write_text(lines)
    write_parquet(tmp_path / "of.jsonl", tmp_path / "of.parquet")
    plain = [(row["path"], row["caption"] or "") for row in rows]
    (tmp_path / "of.tsv").write_text("".join(f"{path}\t{caption}\n" for path, caption in plain))
    (tmp_path / "of.csv").write_text(
        "".join(f"{path},{caption}\n" for path, caption in [("path", "caption"), *plain])
    )
    for form in ("jsonl", "parquet", "tsv", "csv"):
        found = load_captions(tmp_path / f"of.{form}", RECORDS, allow_missing=True)
        assert found == {1: "the summer/a", 2: "the winter/a"}
        with pytest.raises(DataError, match="1 of 3 annotated images has no caption: image 3"):
            load_captions(tmp_path / f"of.{form}", RECORDS)
    (tmp_path / "text.parquet").write_text(lines)
    with pytest.raises(DataError, match="not a Parquet file"):
        load_captions(tmp_path / "text.parquet", RECORDS)
    parquet.write_table(pyarrow.table({"path": ["b.jpg"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no column caption"):
        load_captions(tmp_path / "text.parquet", RECORDS)


def test_other_tables_are_explained(tmp_path: Path) -> None:
    for name, text, reason in [
        ("a.csv", "image,caption\na.jpg,x", "no column 'path' in its first line"),
        ("a.jsonl", '{"image": "a.jpg", "caption": "x"}', 'line 1: expected "path"'),
        ("a.jsonl", '{"path": "b.jpg", "caption": 3}', "must be a string, not 3"),
        ("a.ndjson", "[", "line 1: invalid JSON"),
        ("a.tsv", "b.jpg\tx\nb.jpg x\n", "line 2: expected a path, a tab and a caption"),
        ("a.tsv", f"b.jpg\t{time_span(0, 5)}\ta dog\n", "line 1: a shot of a clip; .* --summary"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=reason):
            load_captions(tmp_path / name, RECORDS)
    with pytest.raises(DataError, match=r"missing.csv: cannot be read"):
        load_captions(tmp_path / "missing.csv", RECORDS)
    (tmp_path / "latin.csv").write_bytes(b"path,caption\nb.jpg,\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        load_captions(tmp_path / "latin.csv", RECORDS)
