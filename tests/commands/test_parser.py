from pathlib import Path
from typing import Any

import pytest

from captioner.cli import parse

COMMANDS = (
    "calibrate",
    "caption",
    "corpus",
    "evaluate",
    "events",
    "explain",
    "demo",
    "export",
    "info",
    "prepare-coco",
    "push",
    "watch",
)  # train and pretrain have help of their own


def stop(*argv: str) -> int:
    """The exit status of a call that is over once it is parsed."""
    with pytest.raises(SystemExit) as end:
        parse(argv)
    assert isinstance(end.value.code, int)
    return end.value.code


def name_of(options: Any) -> str:
    """Of the command that is to be run, whose file has its name."""
    return str(options.run.__module__.rpartition(".")[2]).replace("_", "-")


def test_values_have_their_types_and_missing_ones_are_left_to_the_model() -> None:
    options = parse(
        ["caption", "a.jpg", "--model", "folder", "--beam-size", "3", "--top-p", "0.9", "--sample"]
    )
    assert (name_of(options), options.operands) == ("caption", ["a.jpg"])
    assert (options.model, options.beam_size, options.top_p, options.sample) == (
        [Path("folder")],
        3,
        0.9,
        True,
    )
    assert (options.backend, options.batch_size, options.json) == ("auto", 32, False)
    for name in ("device", "output", "alternatives", "max_length", "temperature", "top_k", "seed"):
        assert getattr(options, name) is None
    assert parse(["caption", "a.jpg"]).sample is None
    assert parse(["caption", "a.jpg", "--seed", "-1"]).seed == -1, (
        "its range is checked where it is used"
    )


@pytest.mark.parametrize(
    ("argv", "operands"),
    [
        (["a", "--json", "b", "--seed=1", "-"], ["a", "b", "-"]),
        (["--json", "a", "--seed", "1", "--", "--json", "-b", "--"], ["a", "--json", "-b", "--"]),
        (["--json", "--seed", "1", "--", "-a"], ["-a"]),
    ],
)
def test_options_may_be_anywhere_before_two_dashes(argv: list[str], operands: list[str]) -> None:
    options = parse(["caption", *argv])
    assert (options.operands, options.json, options.seed) == (operands, True, 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["captoin", "photo.jpg"], "Unknown command captoin. Did you mean caption?"),
        (["--versoin"], "Unknown option --versoin. Did you mean --version?"),
        (["--"], "Unknown command --."),
        (["tag"], "Unknown command tag. Expected one of caption, corpus,"),
        ([__file__], f"To caption it: captioner caption {__file__}"),
        (["caption"], "Missing argument PATH."),
        (
            ["caption", "a.jpg", "--beam-sise=3"],
            "Unknown option --beam-sise. Did you mean --beam-size?",
        ),
        (
            ["caption", "a.jpg", "--jso"],
            "Unknown option --jso. Did you mean --json?",
        ),  # no abbreviations
        (["caption", "a.jpg", "-q"], "Unknown option -q."),
        (["caption", "a.jpg", "--model"], "--model"),
        (["caption", "a.jpg", "--json=yes"], "--json"),
        (["caption", "a.jpg", "--top-p", "half"], "--top-p"),
        (["caption", "a.jpg", "--output", "captions/"], "captions/ is a folder; expected a file"),
        (["explain", "a.jpg", "--output", "b.png/"], "b.png/ is a folder; expected a file"),
        (["evaluate"], "--annotations"),
        (["evaluate", "--annotations", "a.json", "b.json"], "Unexpected argument b.json."),
        (["export"], "Missing argument DIR."),
        (["export", "--", "a", "-b"], "Unexpected argument -b."),
        (["info", "a", "b"], "Unexpected argument b."),
        (["prepare-coco", "--year", "2015"], "--year"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_line_below_the_usage(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stop(*argv) == 2
    printed = capsys.readouterr()
    usage, error = printed.err.splitlines()
    assert usage.startswith("usage: captioner ")
    assert error.startswith("error: ")
    assert message in error
    assert printed.out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_gives_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stop(command, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: captioner {command} ")
    examples = [
        line.strip() for line in text.splitlines() if line.startswith(f"  captioner {command}")
    ]
    assert examples
    for example in examples:
        assert name_of(parse(example.partition(" < ")[0].split()[1:])) == command
    assert stop(command, "-h") == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_the_help_shows_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop(command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    defaults = {
        "--model DIR": "bundled",
        "--batch-size N": "32",
        "--backend BACKEND": "auto",
    }
    defaults |= {"--device DEVICE": "cpu", "--beam-size N": "the model's"}
    for option, default in defaults.items():
        assert f"[default: {default}]" in text.partition(option)[2].partition(" --")[0]
