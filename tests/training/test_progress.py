"""Where stderr is no terminal, a run's log tells once a minute how far it is."""

import re
from pathlib import Path

from captioner.training.train import main
from tests.training.runs import SMALL, TINY


def test_epochs_and_validations_say_how_far_they_are(monkeypatch):
    monkeypatch.setattr("captioner.progress.EVERY", 0)
    assert main([f"--config={TINY}", *SMALL, "--trainer.enable_progress_bar=null"]) == 0
    log = Path("runs/tiny/train.log").read_text()
    for epoch in range(2):
        told = re.findall(rf" Epoch {epoch}: (\d) of 5 batches", log)
        assert told == ["1", "2", "3", "4", "5"]
        assert re.findall(rf"Validation of epoch {epoch}: (\d) of 2 batches", log) == ["1", "2"]
    assert len(re.findall(r"Computing features: \d+ of 40 images", log)) == 5
