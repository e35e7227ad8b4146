import logging
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Configs name their data and runs relative to where training is started."""
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger("captioner").handlers)
    yield
    logging.getLogger("captioner").handlers = handlers
