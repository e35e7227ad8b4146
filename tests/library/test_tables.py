"""Tables of captions, read back by the csv module and pyarrow."""

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.caption import Caption
from captioner.library.tables import (
    COLUMNS,
    csv_header,
    csv_path,
    csv_rows,
    escape_formula,
    unescape_formula,
    write_parquet,
)
from captioner.tags import Tag

TEXTS = st.text(st.sampled_from("'=+-@\t\r\n\",;a\u00e4"), max_size=6)


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(StringIO(text, newline="")))


@given(TEXTS, TEXTS)
def test_a_row_is_read_back_and_has_no_formula(name: str, text: str) -> None:
    row = csv_rows(name, Caption(text, (), -1.5, (), tags=(Tag("dog", 0.9), Tag("cat", 0.5))))
    ((path, caption, log_prob, confidence, tags),) = rows(row)
    assert (float(log_prob), confidence, tags) == (-1.5, "", "dog; cat")
    assert not {path[:1], caption[:1]} & set("=+-@\t\r")
    assert (unescape_formula(path), unescape_formula(caption)) == (name, text)
    assert csv_path(row) == name


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_would_be_a_formula_gets_an_apostrophe(text: str) -> None:
    assert escape_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a dog", "it's", "'tis", "", "1-2"])
def test_other_text_stays(text: str) -> None:
    assert escape_formula(text) == text


def test_each_alternative_has_a_row() -> None:
    second = Caption("a cat", (), -2.0, ())
    first = Caption("a dog", (), -1.0, ())
    both = Caption("a dog", (), -1.0, (), alternatives=(first, second))
    assert rows(csv_header()) == [list(COLUMNS)]
    assert [row[:2] for row in rows(csv_rows("x.jpg", both))] == [
        ["x.jpg", "a dog"],
        ["x.jpg", "a cat"],
    ]


def test_parquet_is_read_by_pyarrow(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    entries = [
        {
            "path": f"{number}.jpg",
            "caption": "=1+1",
            "log_prob": -float(number),
            "alternatives": [{"caption": "a dog", "log_prob": -1.0}] * (number % 3),
            "tags": [{"noun": "dog", "probability": 0.5}] * (number % 2),
        }
        for number in range(5000)
    ]
    (tmp_path / "rows").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    write_parquet(tmp_path / "rows", tmp_path / "captions.parquet")
    table = parquet.read_table(tmp_path / "captions.parquet")
    assert table.to_pylist() == [{**entry, "confidence": None} for entry in entries]
    (tmp_path / "rows").write_text("")
    write_parquet(tmp_path / "rows", tmp_path / "captions.parquet")
    assert parquet.read_table(tmp_path / "captions.parquet").num_rows == 0
