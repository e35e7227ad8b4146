import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from captioner import __version__
from captioner.cli import main
from captioner.decoding.options import ENGLISH_ENDINGS
from captioner.inference import Captioner

ROOT = Path(__file__).parents[1]


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str


def run(*args: object, stdin: bytes = b"") -> Outcome:
    """Run the command in this process, on streams of its own."""
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin)),
        "stdout": io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
        "stderr": io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        status = main([str(arg) for arg in args])
    printed = []
    for name in ("stdout", "stderr"):
        streams[name].seek(0)
        printed.append(streams[name].read())
    return Outcome(status, *printed)


def start(*args: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "captioner", *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def heed_interrupts() -> None:  # whoever runs the tests in the background has them ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=heed_interrupts,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], Image.Image]) -> Path:
    """A folder: a.png, b.jpg, sub/c.png, and a text file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        picture(number).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def texts(captioner: Captioner, photos: Path) -> dict[str, str]:
    """What is to be printed for each path."""
    paths = [str(photos / name) for name in ("a.png", "b.jpg", "sub/c.png")]
    return {
        path: caption.text for path, caption in zip(paths, captioner.caption(paths), strict=True)
    }


def table(texts: dict[str, str]) -> str:
    return "".join(f"{path}\t{text}\n" for path, text in texts.items())


def test_one_image_prints_its_caption_alone(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str]
) -> None:
    path = photos / "a.png"
    assert run("caption", path, "--model", checkpoint_folder) == (0, f"{texts[str(path)]}\n", "")


def test_several_images_print_path_and_caption(
    checkpoint_folder: Path, texts: dict[str, str]
) -> None:
    assert run("caption", *texts, "--model", checkpoint_folder) == (0, table(texts), "")


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_folder_is_searched_for_images(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str], batch_size: int
) -> None:
    outcome = run("caption", photos, "--model", checkpoint_folder, "--batch-size", batch_size)
    assert outcome == (0, table(texts), "")


def test_a_folder_with_one_image_prints_its_path_too(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str]
) -> None:
    path = str(photos / "sub" / "c.png")
    assert (
        run("caption", photos / "sub", "--model", checkpoint_folder).stdout
        == f"{path}\t{texts[path]}\n"
    )


def test_an_image_can_come_from_standard_input(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str]
) -> None:
    path = photos / "b.jpg"
    text = texts[str(path)]
    assert run("caption", "-", "--model", checkpoint_folder, stdin=path.read_bytes()) == (
        0,
        f"{text}\n",
        "",
    )
    outcome = run("caption", path, "-", "--model", checkpoint_folder, stdin=path.read_bytes())
    assert outcome == (0, f"{path}\t{text}\n-\t{text}\n", "")
    outcome = run("caption", "-", "--model", checkpoint_folder, stdin=b"")
    assert outcome == (1, "", "error: standard input: is empty\n")


def test_json_is_one_object_a_line(
    checkpoint_folder: Path, captioner: Captioner, texts: dict[str, str]
) -> None:
    outcome = run("caption", *texts, "--json", "--alternatives", 2, "--model", checkpoint_folder)
    captions = captioner.caption(list(texts), alternatives=2)
    expected = [
        {"path": path, **caption.to_dict()} for path, caption in zip(texts, captions, strict=True)
    ]
    assert [json.loads(line) for line in outcome.stdout.splitlines()] == expected
    assert [len(entry["alternatives"]) for entry in expected] == [2, 2, 2]
    assert outcome.stderr == ""
    single = json.loads(
        run("caption", next(iter(texts)), "--json", "--model", checkpoint_folder).stdout
    )
    close = {"log_prob": pytest.approx(expected[0]["log_prob"], abs=1e-4), "alternatives": []}
    tags = [
        {**tag, "probability": pytest.approx(tag["probability"], abs=1e-4)}
        for tag in expected[0]["tags"]
    ]
    assert single == {**expected[0], **close, "tags": tags}


def test_alternatives_are_printed_line_by_line(
    checkpoint_folder: Path, captioner: Captioner, photos: Path
) -> None:
    path = photos / "a.png"
    (caption,) = captioner.caption([path], alternatives=3)
    lines = [other.text for other in caption.alternatives]
    assert (
        run("caption", path, "--alternatives", 3, "--model", checkpoint_folder).stdout.splitlines()
        == lines
    )


def test_options_reach_the_decoding(
    checkpoint_folder: Path, captioner: Captioner, photos: Path
) -> None:
    path = photos / "a.png"
    sampled = [
        "--sample",
        "--seed",
        4,
        "--temperature",
        2,
        "--top-k",
        9,
        "--top-p",
        0.9,
        "--max-length",
        5,
    ]
    (caption,) = captioner.caption(
        path, sample=True, seed=4, temperature=2.0, top_k=9, top_p=0.9, max_length=5
    )
    assert (
        run("caption", path, "--model", checkpoint_folder, *sampled).stdout == f"{caption.text}\n"
    )
    for said, words in (
        ("english", ENGLISH_ENDINGS),
        ("a, cat,dog", ("a", "cat", "dog")),
        ("english,", ("english",)),
    ):
        (caption,) = captioner.caption(path, forbidden_endings=words)
        printed = run(
            "caption", path, "--model", checkpoint_folder, "--forbidden-endings", said
        ).stdout
        assert printed == f"{caption.text}\n"
    (caption,) = captioner.caption(path, beam_size=1)
    assert (
        run("caption", path, "--model", checkpoint_folder, "--beam-size", 1).stdout
        == f"{caption.text}\n"
    )
    (caption,) = captioner.caption(path, include=["dog", "red ball"])
    included = ["--include", "dog", "--include", "red ball"]
    assert (
        run("caption", path, "--model", checkpoint_folder, *included).stdout == f"{caption.text}\n"
    )


def test_a_failed_input_is_named_and_the_rest_captioned(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    inputs = [
        tmp_path / "missing.jpg",
        photos,
        tmp_path / "empty",
        tmp_path / "broken.jpg",
        photos / "notes.txt",
    ]
    outcome = run("caption", *inputs, "--model", checkpoint_folder)
    assert outcome.status == 1
    assert outcome.stdout == table(texts)
    lines = outcome.stderr.splitlines()
    assert len(lines) == 4
    for path in (inputs[0], *inputs[2:]):
        assert sum(line.startswith(f"error: {path}: ") for line in lines) == 1
    assert f"error: {tmp_path / 'empty'}: the folder has no images" in lines
    outcome = run("caption", photos / "notes.txt", "--json", "--model", checkpoint_folder)
    assert (outcome.status, outcome.stdout) == (1, "")


def test_where_stderr_is_no_terminal_a_line_a_minute_says_how_far_it_is(
    checkpoint_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.progress.EVERY", 0)
    output = "--output", tmp_path / "captions.txt"
    outcome = run(
        "caption", photos / "a.png", photos / "b.jpg", "--model", checkpoint_folder, *output
    )
    assert outcome.status == 0
    first, last = outcome.stderr.splitlines()
    assert first.startswith("Done: 1 of 2 items")
    assert last == "Done: 2 of 2 items"
    outcome = run(
        "caption", photos, "--model", checkpoint_folder, "--output", tmp_path / "more.txt"
    )
    assert outcome.stderr.splitlines() == ["Done: 1 items", "Done: 2 items", "Done: 3 items"]


def test_output_goes_to_a_file(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "captions.txt"
    assert run("caption", photos, "--model", checkpoint_folder, "--output", output) == (0, "", "")
    assert output.read_text(encoding="utf-8") == table(texts)


def test_file_names_of_any_bytes_pass_through(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str], tmp_path: Path
) -> None:
    text = texts[str(photos / "a.png")]
    names = ["ünïcode.png", os.fsdecode(b"latin-\xe9.png")]
    for name in names:
        try:
            shutil.copy(photos / "a.png", tmp_path / name)
        except OSError:
            pytest.skip("the file system takes no such names")
    output = tmp_path / "captions.txt"
    run(
        "caption",
        *(tmp_path / name for name in names),
        "--model",
        checkpoint_folder,
        "--output",
        output,
    )
    expected = [os.fsencode(tmp_path / name) + b"\t" + text.encode() for name in names]
    assert output.read_bytes().splitlines() == expected
    outcome = run(
        "caption", *(tmp_path / name for name in names), "--model", checkpoint_folder, "--json"
    )
    paths = [json.loads(line)["path"] for line in outcome.stdout.splitlines()]
    assert paths == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing argument"),
        (["PHOTO", "--beam-sise", "3"], "--beam-sise"),
        (["PHOTO", "--beam-size", "many"], "--beam-size"),
        (["PHOTO", "--beam-size", "0"], "error: beam_size is 0"),
        (["PHOTO", "--alternatives", "9"], "error: alternatives is 9"),
        (
            ["PHOTO", "--include", "dogg"],
            "error: The model doesn't know the word dogg; the closest words that it knows: dog",
        ),
        (
            ["PHOTO", "--temperature", "2"],
            "error: temperature is 2.0; expected 1 unless sample is on",
        ),
        (["PHOTO", "--batch-size", "0"], "error: batch_size is 0"),
        (["PHOTO", "--backend", "tensorflow"], "--backend"),
        (
            ["PHOTO", "--backend", "onnx", "--device", "cuda"],
            "error: The onnx backend runs on the CPU",
        ),
        (["PHOTO", "--model", "nowhere"], "error: The checkpoint nowhere does not exist"),
        (
            ["PHOTO", "--output", "nowhere/captions.txt"],
            "error: nowhere/captions.txt: the folder",
        ),
        (["PHOTO", "--output", "other.jpg"], "would overwrite an image"),
        (["PHOTO", "--output", "-"], "--output: - names no file"),
        (["-", "-"], "error: - was given twice"),
        (["PHOTO", ""], "error: A PATH is empty"),
    ],
)
def test_a_wrong_call_has_status_2_and_no_traceback(
    checkpoint_folder: Path, photos: Path, args: list[str], message: str
) -> None:
    given = [str(photos / "a.png") if arg == "PHOTO" else arg for arg in args]
    outcome = run("caption", "--model", checkpoint_folder, *given)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_a_folder_that_may_not_be_read_is_a_wrong_call(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    outcome = run("caption", tmp_path / "closed", "--model", checkpoint_folder)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "closed: the folder cannot be read" in outcome.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_line(checkpoint_folder: Path, photos: Path) -> None:
    outcome = run("caption", photos, "--model", checkpoint_folder, "--output", "/dev/full")
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: ")
    assert "No space left" in outcome.stderr
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "captioner", "info", str(checkpoint_folder)]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and "No space left" in line


@pytest.mark.skipif(os.name == "nt", reason="pipes and signals of Unix")
@pytest.mark.parametrize("end", ["closed pipe", "interrupt"])
def test_a_reader_that_leaves_and_an_interrupt_end_it_quietly(
    checkpoint_folder: Path, photos: Path, end: str
) -> None:
    with start("caption", *[photos / "a.png"] * 2000, "--model", checkpoint_folder) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline(), "results come as they are made"
        if end == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
        stderr = process.stderr.read()
    assert (process.returncode, stderr) == (130 if end == "interrupt" else 141, b"")


def test_info_says_what_a_checkpoint_is(checkpoint_folder: Path) -> None:
    outcome = run("info", checkpoint_folder, "--json")
    assert outcome.status == 0
    description = json.loads(outcome.stdout)
    assert description["architecture"]["encoder"]["name"] == "squeezenet1_1"
    assert description["files"]["encoder.onnx"] > 0
    text = run("info", checkpoint_folder).stdout
    assert all(
        part in text
        for part in ("squeezenet1_1", "show_attend_tell", "beam_size 3", "# A tiny captioner")
    )
    card = (checkpoint_folder / "README.md").read_text(encoding="utf-8")
    assert text.endswith(f"\n\n{card.strip()}\n")
    assert run("info", "--model", checkpoint_folder).stdout == text
    assert run("info", checkpoint_folder.parent).status == 2
    assert "one checkpoint folder" in run("info", "a", "--model", "b").stderr


@pytest.mark.usefixtures("_traced")
def test_export_writes_the_onnx_pair_anew(
    checkpoint_folder: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint_folder, folder)
    (folder / "encoder.onnx").unlink()
    (folder / "decoder.onnx").write_bytes(b"")
    outcome = run("export", folder)
    assert outcome == (0, f"{folder / 'encoder.onnx'}\n{folder / 'decoder.onnx'}\n", "")
    ours, theirs = (
        run("caption", photos, "--model", model, "--backend", "onnx")
        for model in (folder, checkpoint_folder)
    )
    assert ours == theirs
    outcome = run("export", tmp_path)
    assert outcome.status == 2
    assert "is not a checkpoint" in outcome.stderr


def test_help_and_version() -> None:
    assert run("--version") == (0, f"captioner {__version__}\n", "")
    outcome = run("--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert all(
        command in outcome.stdout
        for command in ("caption", "evaluate", "export", "info", "train", "prepare-coco")
    )
    assert run() == (2, "", outcome.stdout)
    assert run("caption", "-h").status == 0


def test_evaluate_captions_and_scores(
    checkpoint_folder: Path, photos: Path, texts: dict[str, str], tmp_path: Path
) -> None:
    annotations = tmp_path / "captions.csv"
    rows = [f"{os.path.relpath(path, photos)},{text}" for path, text in texts.items()]
    annotations.write_text(
        "\n".join(["image,caption", *rows, "a.png,a cat on a table"]), encoding="utf-8"
    )
    call = ["evaluate", "--annotations", annotations, "--output", tmp_path / "out"]
    outcome = run(*call, "--images", photos, "--model", checkpoint_folder)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "BLEU-4" in outcome.stdout and "100.0" in outcome.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [entry["caption"] for entry in results] == list(texts.values())
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores["BLEU-1"] == pytest.approx(1)

    again = run(*call, "--results", tmp_path / "out" / "results.json")
    assert again == outcome
    assert (
        run(
            *call, "--results", tmp_path / "out" / "results.json", "--model", checkpoint_folder
        ).status
        == 2
    )
    assert (
        run(
            "evaluate", "--annotations", tmp_path / "missing.csv", "--model", checkpoint_folder
        ).status
        == 2
    )

    (tmp_path / "broken").mkdir()
    for name in ("a.png", "b.jpg", "c.png"):
        (tmp_path / "broken" / name).write_bytes(b"")
    annotations.write_text("image,caption\na.png,a cat\nb.jpg,a dog\n", encoding="utf-8")
    outcome = run(*call, "--images", tmp_path / "broken", "--model", checkpoint_folder)
    assert outcome.status == 2
    assert "a.png: is empty" in outcome.stderr
