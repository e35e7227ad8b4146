"""Options of the optimizer that it cannot use."""

import math

import pytest

from captioner.errors import ConfigError
from captioner.training.optimization import FinetuneConfig, check_schedule
from captioner.training.train import main
from tests.training.runs import SMALL, TINY


@pytest.mark.parametrize("option", ["model.weight_decay", "model.finetune.learning_rate"])
def test_numbers_below_0_are_one_line(
    option: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main([f"--config={TINY}", *SMALL, f"--{option}=-0.5"])
    except SystemExit as error:  # while the command line is parsed
        status = error.code
    assert status == 2
    assert f"{option} is -0.5; expected 0 or more" in caplog.text + capsys.readouterr().err


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_the_learning_rate_is_a_number_above_0(rate: float) -> None:
    check_schedule(1e-3, 0, 0.0)
    with pytest.raises(ConfigError, match=r"model\.learning_rate is .*; expected a number above 0"):
        check_schedule(rate, 0, 0.0)


def test_a_schedule_neither_falls_below_0_nor_rises() -> None:
    check_schedule(1e-3, 5, 1.0)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match=r"model\.final_share is"):
            check_schedule(1e-3, 5, share)
    with pytest.raises(ConfigError, match=r"model\.warmup_steps is -1"):
        check_schedule(1e-3, -1, 0.5)


def test_epochs_are_counted_from_0() -> None:
    with pytest.raises(ConfigError, match=r"model\.finetune\.from_epoch is -1"):
        FinetuneConfig(["layer4"], from_epoch=-1)
