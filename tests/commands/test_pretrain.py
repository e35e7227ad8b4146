"""`captioner pretrain`: its arguments; the pretraining itself is tested in tests/pretraining."""

import pytest

from captioner.cli import main, parse


def test_all_arguments_but_the_names_of_configs_are_lightnings() -> None:
    rest = ["--trainer.max_epochs=3", "--ckpt_path", "last", "--help", "-x"]
    assert parse(["pretrain", *rest]).operands == rest


def test_an_unknown_config_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--config", "mnits"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Unknown config mnits. Did you mean mnist? Expected ")


def test_its_help_is_lightnings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", "--help"])
    text, complaints = capsys.readouterr()
    assert text.startswith("usage: captioner pretrain ")
    assert not complaints
    assert all(option in text for option in ("--config", "--ckpt_path", "--data.warp.rotate"))
