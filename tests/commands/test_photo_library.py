"""`captioner caption` with `--xmp`, `--html` and `--format`: resumed and rejected calls."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main
from captioner.library.album import is_album

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    (tmp_path / "photos").mkdir()
    for name, number in (("a.png", 0), ("=b.png", 1), ('c "x",\n.png', 2)):
        picture(number).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def run(checkpoint_folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls `captioner caption`; its status, what it printed and what it said."""

    def call(*args: object, model: Path = checkpoint_folder) -> tuple[int, str, str]:
        status = main(["caption", "--model", str(model), *map(str, args)])
        return status, *capsys.readouterr()

    return call


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_sidecars_of_a_folder_are_written_once(run: Run, photos: Path) -> None:
    pytest.importorskip("lxml")
    status, printed, _ = run(photos, "--xmp", "--tags")
    assert status == 0 and printed.count("\n") == 3
    sidecars = {path: path.read_bytes() for path in photos.glob("*.png.xmp")}
    assert len(sidecars) == 3
    status, printed, said = run(photos, "--xmp", "--tags")
    assert (status, printed) == (0, "") and "Skipped 3 images, captioned already" in said
    assert {path: path.read_bytes() for path in photos.glob("*.png.xmp")} == sidecars
    assert run(photos, "--xmp", "--tags", "--beam-size", "1")[1].count("\n") == 3


def test_a_damaged_sidecar_affects_only_its_photo(run: Run, photos: Path) -> None:
    pytest.importorskip("lxml")
    (photos / "a.png.xmp").write_text("damaged")
    status, _, said = run(photos, "--xmp")
    assert status == 1 and "a.png: its sidecar" in said
    assert len(list(photos.glob("*.xmp"))) == 3
    assert (photos / "a.png.xmp").read_text() == "damaged"


def test_a_table_is_resumed(run: Run, photos: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    assert run(photos, "--output", whole, "--format", "csv")[0] == 0
    rows = table(whole)
    names = ["'=b.png", "a.png", 'c "x",\n.png']
    names[0] = str(photos / "=b.png")  # the path begins with a slash, so it is no formula
    assert [row["path"] for row in rows] == [names[0], *(str(photos / name) for name in names[1:])]
    content = whole.read_bytes()
    shutil.copy(f"{whole}.run.json", f"{stopped}.run.json")
    for size in (0, 2, 20, 60, len(content) // 2, len(content) - 30, len(content) - 1):
        stopped.write_bytes(content[:size])
        assert run(photos, "--output", stopped, "--format", "csv")[0] == 0
        assert [row["path"] for row in table(stopped)] == [row["path"] for row in rows]
        assert [row["caption"] for row in table(stopped)] == [row["caption"] for row in rows]


def test_the_suffix_of_the_output_names_its_format(run: Run, photos: Path, tmp_path: Path) -> None:
    rows, lines, text = (tmp_path / f"captions.{suffix}" for suffix in ("CSV", "jsonl", "txt"))
    for output in (rows, lines, text):
        assert run(photos / "a.png", "--output", output)[0] == 0
    ((_, caption),) = [(row["path"], row["caption"]) for row in table(rows)]
    assert json.loads(lines.read_text())["caption"] == caption
    assert text.read_text() == f"{caption}\n"
    for flags in (["--format", "text"], ["--json"]):
        output = tmp_path / f"asked{flags[-1]}.csv"
        assert run(photos / "a.png", "--output", output, *flags)[0] == 0
        assert caption in output.read_text() and "path,caption" not in output.read_text()


def test_formulas_in_names_are_escaped_and_known_again(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    output = tmp_path / "captions.csv"
    assert run("=b.png", "a.png", "--output", output, "--format", "csv")[0] == 0
    before = output.read_bytes()
    assert [row["path"] for row in table(output)] == ["'=b.png", "a.png"]
    assert run("=b.png", "a.png", "--output", output, "--format", "csv")[0] == 0
    assert output.read_bytes() == before
    _, printed, _ = run("a.png", "--format", "csv")
    assert [row["path"] for row in csv.DictReader(printed.splitlines())] == ["a.png"]


def test_json_lines_are_the_same_by_both_names(run: Run, photos: Path) -> None:
    first, second = (
        run(photos / "a.png", *flag)[1] for flag in (["--json"], ["--format", "jsonl"])
    )
    assert json.loads(first) == json.loads(second)


def test_parquet_grows_with_new_photos(run: Run, photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "captions.parquet"
    assert run(photos, "--output", output, "--format", "parquet")[0] == 0
    shutil.copy(photos / "a.png", photos / "d.png")
    said = run(photos, "--output", output, "--format", "parquet")[2]
    assert "captions of 3 images" in said
    paths = parquet.read_table(output).column("path").to_pylist()
    assert sorted(paths) == sorted(map(str, photos.iterdir()))


def test_an_album_is_written_and_replaced(run: Run, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "album.html"
    for _ in range(2):
        assert run(photos, "--html", page)[0] == 0
        assert is_album(page) and page.read_text().count("<figure") == 3


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--json", "--format", "csv"], "cannot be combined"),
        (["--format", "parquet"], "--output"),
        (["--format", "parquet", "--output", "mine.parquet"], "is not overwritten"),
        (["--html", "mine.html"], "is not overwritten"),
        (["--html", "album.txt"], "expected an HTML file"),
        (["--html", "nowhere/album.html"], "folder"),
        (["--xmp-stem"], "requires --xmp"),
        (["--embed", "--xmp-stem"], "requires --xmp."),
        (["--replace"], "requires --xmp"),
        (["--language", "de"], "requires --xmp"),
        (["--xmp", "--language", "de_DE"], "expected a language tag"),
        (["--xmp", "--language", "x-default"], "expected a language tag"),
        (["--embed", "--language", ""], "expected a language tag"),
    ],
)
def test_a_wrong_call_is_refused(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], reason: str
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(photos)
    for name in ("mine.html", "mine.parquet"):
        Path(name).write_text("mine")
    status, _, said = run("a.png", *args)
    assert status == 2 and reason in said
    assert {Path(name).read_text() for name in ("mine.html", "mine.parquet")} == {"mine"}
    assert not Path("a.png.xmp").exists()


@pytest.mark.parametrize("option", [["--xmp"], ["--embed"], ["--html", "album.html"]])
def test_standard_input_cannot_store_a_caption(run: Run, option: list[str]) -> None:
    status, _, said = run("-", *option)
    assert status == 2 and "standard input" in said
