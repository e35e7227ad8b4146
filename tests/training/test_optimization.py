"""Options of the optimizer that it cannot use."""

import pytest

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
