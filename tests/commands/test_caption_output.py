"""`captioner caption --output`: nothing is lost, mixed or done twice, whatever stops a run."""

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.cli import main
from captioner.commands import captions_file
from captioner.commands.captions_file import CaptionsFile
from captioner.errors import ConfigError
from captioner.library.tables import escape_row, unescape_row

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture(number).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def run(checkpoint_folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls `captioner caption`; its status and what it said."""

    def call(*args: object, model: Path = checkpoint_folder) -> tuple[int, str]:
        status = main(["caption", "--model", str(model), *map(str, args)])
        return status, capsys.readouterr().err

    return call


def limited(*args: object, size: int) -> "subprocess.CompletedProcess[str]":
    """Run the command where no file can grow beyond a size, as on a full disk."""
    # -B: cached bytecode would be cut off, too.
    command = [sys.executable, "-B", "-m", "captioner", "caption", *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, preexec_fn=limit, check=False
    )


def told(file: Path) -> list[object]:
    """Read a captions file without the last digits of numbers, which depend on the batch."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines[0].startswith("{"):
        return list(lines)
    return [(entry["path"], entry["caption"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize(
    "options",
    [[], ["--json"], ["--alternatives", "2"], ["--sample", "--seed", "3"]],
    ids=lambda each: "".join(each),
)
def test_an_interrupted_run_resumes_with_the_same_result(
    run: Run, photos: Path, tmp_path: Path, options: list[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(photos, "--output", whole, *options)[0] == 0
    expected = whole.read_bytes()
    each = len(expected.splitlines(keepends=True)) // 5
    rows = expected.splitlines(keepends=True)
    shutil.copy(tmp_path / "whole.run.json", tmp_path / "stopped.run.json")
    for images, cut in (
        (0, 0),
        (0, 7),
        (2, 0),
        (3, 9),
        (4, 1),
    ):  # so many whole ones, and some bytes of a row
        end = len(b"".join(rows[: each * images])) + cut
        stopped.write_bytes(expected[:end])
        status, said = run(photos, "--output", stopped, *options)
        assert status == 0
        assert told(stopped) == told(whole)
        assert ("Resuming" in said) == (images > 0)
    before = stopped.read_bytes()
    assert run(photos, "--output", stopped, *options)[0] == 0
    assert stopped.read_bytes() == before, "all is done"


def test_a_full_disk_leaves_complete_rows_and_the_next_run_resumes(
    run: Run, photos: Path, tmp_path: Path, checkpoint_folder: Path
) -> None:
    assert run(photos, "--output", tmp_path / "whole.tsv")[0] == 0
    expected = (tmp_path / "whole.tsv").read_text()
    room = (tmp_path / "whole.tsv.run.json").stat().st_size
    for name in range(40):
        shutil.copy(photos / "0.png", photos / f"more-{name:02}.png")
    output = tmp_path / "captions.tsv"
    result = limited(photos, "--output", output, "--model", checkpoint_folder, size=room)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [f"error: {output}: File too large"]
    text = output.read_text()
    assert text.startswith(expected[:10]) and text.endswith("\n") and len(text) <= room
    assert run(photos, "--output", output)[0] == 0
    names = [line.partition("\t")[0] for line in output.read_text().splitlines()]
    assert names == [str(path) for path in sorted(photos.iterdir())]


def test_failed_photos_are_retried_and_new_ones_added(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "captions.tsv"
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[:50])
    assert run(photos, "--output", output)[0] == 1
    before = output.read_text()
    (photos / "1.png").write_bytes(whole)
    shutil.copy(photos / "0.png", photos / "new.png")
    assert run(photos, photos / "0.png", "--output", output)[0] == 0
    added = output.read_text().removeprefix(before).splitlines()
    assert [line.partition("\t")[0] for line in added] == [
        str(photos / "1.png"),
        str(photos / "new.png"),
    ]


@pytest.mark.parametrize(
    "args",
    [
        ["--model", "nowhere"],
        ["--beam-size", "0"],
        ["--include", "xyzzy"],
        ["--beam-size", "2"],
        ["--json"],
    ],
)
def test_a_wrong_call_changes_no_files(
    run: Run, photos: Path, tmp_path: Path, args: list[str]
) -> None:
    output = tmp_path / "captions.tsv"
    assert run(photos, "--output", output)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, said = run(photos, "--output", output, *args)
    assert status == 2 and said.startswith("error: ")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert run(photos, "--output", tmp_path / "new.tsv", "--include", "xyzzy")[0] == 2
    assert not (tmp_path / "new.tsv").exists()


def test_another_model_or_option_is_reported(
    run: Run, photos: Path, tmp_path: Path, checkpoint_folder: Path
) -> None:
    output = tmp_path / "captions.tsv"
    assert run(photos, "--output", output)[0] == 0
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(checkpoint_folder, copy)
    assert run(photos, "--output", output, model=copy)[0] == 0, "the same model elsewhere"
    shutil.copytree(checkpoint_folder, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    status, said = run(photos, "--output", output, model=other)
    assert status == 2 and "with another model" in said
    assert "beam_size 3, now 2" in run(photos, "--output", output, "--beam-size", "2")[1]
    assert "include" in run(photos, "--output", output, "--include", "dog")[1]
    assert "has the format table, not JSON lines" in run(photos, "--output", output, "--json")[1]


@pytest.mark.parametrize("name", ["captions.xlsx", "captions.json", "captions.HTML"])
def test_text_is_not_written_under_the_name_of_another_format(
    name: str, run: Run, photos: Path, tmp_path: Path
) -> None:
    status, said = run(photos, "--output", tmp_path / name)
    assert status == 2 and "Expected one of .txt, .tsv, .jsonl, .csv, .parquet," in said
    assert list(tmp_path.iterdir()) == [photos]
    assert run(photos, "--output", tmp_path / name, "--format", "jsonl")[0] == 0, "as told"


def test_no_other_file_is_written_over(run: Run, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text("image,caption\n0.png,a dog\n")
    rows = tmp_path / "rows.tsv"
    rows.write_text(f"{photos / '0.png'}\ta dog\n")
    plain = tmp_path / "photo"  # a photo without a suffix
    shutil.copy(photos / "0.png", plain)
    (tmp_path / "link.tsv").symlink_to(photos / "1.png")
    os.link(photos / "2.png", tmp_path / "hard.tsv")
    (tmp_path / "new.tsv.run.json").write_text("{}")
    names = ["photos.csv", "rows.tsv", "photo", "link.tsv", "hard.tsv", "new.tsv", "missing"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in names:
        status, said = run(photos, plain, tmp_path / "missing", "--output", tmp_path / name)
        assert status == 2 and said.startswith("error: ") and len(said.splitlines()) == 1, name
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "is a folder" in run(photos, "--output", tmp_path)[1]
    (tmp_path / "empty.tsv").touch()
    assert run(photos, "--output", tmp_path / "empty.tsv")[0] == 0


def test_rows_of_another_process_are_kept(tmp_path: Path) -> None:
    output, same = tmp_path / "captions.tsv", captions_file.Run("table", str(tmp_path), ("1",), {})
    with CaptionsFile(output, same, []) as file:
        file.write("a.png", "a.png\ta dog\n")
    late = CaptionsFile(output, same, [])
    with CaptionsFile(output, same, []) as file:
        file.write("b.png", "b.png\ta cat\n")
    with pytest.raises(ConfigError, match="run the command again"), late:
        pass
    assert output.read_text() == "a.png\ta dog\nb.png\ta cat\n"
    with CaptionsFile(output, same, []) as file:
        assert "b.png" in file


def test_a_circular_link_is_reported(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "loop.tsv").symlink_to("loop.tsv")
    status, said = run(photos, "--output", tmp_path / "loop.tsv")
    assert status == 2 and said.startswith(f"error: {tmp_path / 'loop.tsv'}: ")


def test_a_single_caption_is_kept_too(run: Run, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "caption.txt"
    assert run(photos / "0.png", "--output", output)[0] == 0
    text = output.read_text()
    assert text.count("\n") == 1 and "\t" not in text
    assert run(photos / "0.png", "--output", output)[0] == 0
    assert run(photos / "1.png", "--output", output)[0] == 2
    assert output.read_text() == text


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: text[1:]])
def test_a_table_that_a_spreadsheet_saved_is_resumed(
    run: Run, photos: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    """With other ends of lines, or without the mark at its start; its header is no photo."""
    output = tmp_path / "captions.csv"
    assert run(photos / "0.png", photos / "1.png", "--output", output)[0] == 0
    saved = change(output.read_bytes().decode())
    output.write_bytes(saved.encode())
    status, told = run(photos / "1.png", photos / "2.png", "--output", output)
    assert status == 0 and "captions of 2 images." in told
    added = output.read_bytes().decode().removeprefix(saved)
    assert added.count("\n") == 1 and added.startswith(f"{photos / '2.png'},")


def test_relative_paths_resume_in_their_folder(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "captions.tsv"
    monkeypatch.chdir(photos)
    assert run("0.png", "./1.png", "--output", output)[0] == 0
    assert run("1.png", "0.png", "2.png", "--output", output)[0] == 0
    assert [line.partition("\t")[0] for line in output.read_text().splitlines()] == [
        "0.png",
        "./1.png",
        "2.png",
    ]
    monkeypatch.chdir(tmp_path)
    assert "with paths relative to" in run("0.png", photos, "--output", output)[1]


@pytest.mark.parametrize(
    "name", ["a\tb.png", "a\nb\r.png", "a\\tb.png", "\\", "日本\udce9.png", "plain.png"]
)
def test_names_are_one_field_and_come_back(name: str) -> None:
    field = escape_row(name)
    assert not set("\t\n\r") & set(field)
    assert unescape_row(field) == name
    assert (field == name) == (not set("\t\n\r\\") & set(name))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("as_json", [True, False])
def test_names_that_the_terminal_cannot_write(
    photos: Path,
    checkpoint_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    as_json: bool,
) -> None:
    names = ["日本.png", "é😀.png", "tab\tnew\nline.png", os.fsdecode(b"latin-\xe9.png")]
    paths = [str(photos / name) for name in names]
    for path in paths:
        shutil.copy(photos / "0.png", path)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["caption", "--model", str(checkpoint_folder), *["--json"] * as_json, *paths]) == 0
    stdout.flush()
    lines = stdout.buffer.getvalue().rstrip(b"\n").split(b"\n")  # type: ignore[attr-defined]
    assert len(lines) == len(paths)
    if as_json:
        assert [json.loads(line.decode(encoding))["path"] for line in lines] == paths
    elif encoding == "utf-8":
        read = [unescape_row(os.fsdecode(line.split(b"\t")[0])) for line in lines]
        assert read == paths


def test_a_stream_in_memory_gets_names_as_they_are(photos: Path, checkpoint_folder: Path) -> None:
    path = photos / "日本.png"
    shutil.copy(photos / "0.png", path)
    call = ["caption", "--model", str(checkpoint_folder), "--json", str(path)]
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert main(call) == 0
    assert json.loads(stdout.getvalue())["path"] == str(path)
    assert str(path) in stdout.getvalue()


def test_a_run_continues_if_attention_cannot_be_saved(
    run: Run, photos: Path, tmp_path: Path, checkpoint_folder: Path
) -> None:
    long = photos / f"{'ü' * 123}.png"  # 250 bytes
    shutil.copy(photos / "0.png", long)
    maps, output = tmp_path / "maps", tmp_path / "captions.tsv"
    result = limited(photos, "--save-attention", maps, "--model", checkpoint_folder, size=100)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == len(result.stderr.splitlines()) == 6
    assert all(
        "cannot save its attention (File too large)" in line for line in result.stderr.splitlines()
    )
    assert not list(maps.iterdir())
    assert run(photos, "--output", output)[0] == 0
    before = output.read_bytes()
    assert run(photos, "--output", output, "--save-attention", maps) == (
        0,
        f"Resuming {output}, which has captions of 6 images.\n",
    )
    assert output.read_bytes() == before
    owners = []
    for path in maps.iterdir():
        with np.load(path) as arrays:
            owners.append(str(arrays["path"]))
    assert sorted(owners) == [str(path) for path in sorted(photos.iterdir())]


def test_closed_streams_cause_no_traceback(
    photos: Path, tmp_path: Path, checkpoint_folder: Path
) -> None:
    command = f"{sys.executable} -m captioner caption --model {checkpoint_folder}"
    output = tmp_path / "captions.txt"
    script = f"""
        {command} {photos}/0.png >&-; echo $? >&2
        {command} - <&-; echo $? >&2
        {command} {photos}/0.png --output {output} >&- 2>&- <&-; echo $? >&2
        {command} {photos}/missing.png 2>&-; echo $? >&2
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    first, *others = result.stderr.splitlines()
    assert first.startswith("error: Standard output is closed")
    assert others == ["2", "error: standard input: is empty", "1", "0", "1"]
    assert result.stdout == ""
    assert output.read_text().count("\n") == 1


def test_libraries_print_no_warnings_about_odd_images(
    photos: Path, tmp_path: Path, checkpoint_folder: Path
) -> None:
    path = tmp_path / "odd.tif"
    Image.open(photos / "0.png").convert("1").save(path, compression="group4")
    content = bytearray(path.read_bytes())
    content[8:16] = b"\xff\x13\x99\x00\xff\xd9\x07\x01"
    path.write_bytes(content)
    command = [
        sys.executable,
        "-m",
        "captioner",
        "caption",
        str(path),
        "--model",
        str(checkpoint_folder),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    probe = f"from captioner.images import open_image; open_image({str(path)!r})"
    noisy = subprocess.run(
        [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False
    )
    assert "Fax4Decode" in noisy.stderr, "or this tests nothing"
