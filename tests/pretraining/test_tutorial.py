"""docs/tutorial-digits.md: every block runs, one after the other."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from captioner.cli import main

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LEFT_OUT = "pip install"  # tests/test_package.py installs


@pytest.fixture(autouse=True)
def _sklearn() -> None:
    pytest.importorskip("sklearn")


def commands(block: str) -> list[str]:
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(LEFT_OUT)]


def follow(page: str, smaller: dict[str, str], more: str = "") -> dict[str, Any]:
    """Run the blocks of a page in this folder, after some replacements; a YAML block is a file.

    Args:
        page: The page's name.
        smaller: What is replaced by what.
        more: Options of all training commands.

    Returns:
        The names that the Python blocks leave.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    for before, after in smaller.items():
        assert before in text
        text = text.replace(before, after)
    names: dict[str, Any] = {"__name__": "tutorial"}
    for language, block in BLOCK.findall(text):
        if language == "yaml":
            Path(re.findall(r"^Write `(.*)`:$", text, re.MULTILINE)[0]).write_text(block)
        elif language == "python":
            exec(compile(block, page, "exec"), names)
        else:
            assert language == "sh"
            for command in commands(block):
                program, *arguments = shlex.split(command)
                assert program == "captioner"
                training = arguments[0] in ("train", "pretrain")
                assert main([*arguments, *(shlex.split(more) if training else [])]) == 0, command
    return names


@pytest.mark.slow
def test_the_tutorial_on_digits_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the commands do, but put back
    smaller = {
        "DIGITS = 1400": "DIGITS = 1700",
        '"train": 3000, "test": 300': '"train": 40, "test": 6',
        "max_epochs: 20": "max_epochs: 1",
    }
    quick = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.max_epochs 1"
    quick += " --trainer.limit_train_batches 2 --trainer.logger false"
    names = follow("tutorial-digits.md", smaller, quick)
    assert "of 6 rows are read" in capsys.readouterr().out
    assert len(names["captions"]) == 6


@pytest.mark.slow
def test_the_tutorial_on_digits_teaches_to_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    names = follow("tutorial-digits.md", {}, "--trainer.accelerator cpu")
    assert "of 300 rows are read" in capsys.readouterr().out
    assert names["right"] >= 0.5 * 300  # by chance, none is
