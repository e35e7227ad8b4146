"""Where a run is resumed: the last whole checkpoint of its folder."""

import logging
import zipfile
from pathlib import Path

from captioner.errors import ConfigError

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # the folder of a run that has them


def find_checkpoint(asked: str, run: Path) -> Path:
    """The checkpoint to resume from.

    Args:
        asked: "last", for the last whole one of the run, or a file.
        run: The run's folder.

    Raises:
        ConfigError: There is none, or the file was cut short.
    """
    folder = run / CHECKPOINTS
    if asked != "last":
        if not _is_whole(Path(asked)):
            raise ConfigError(f"{asked} is no whole checkpoint. Name another, or --ckpt_path last.")
        return Path(asked)
    found = sorted(folder.glob("*.ckpt"), key=lambda path: (path.name == "last.ckpt", path.stat().st_mtime))
    for path in reversed(found):
        if _is_whole(path):
            return path
        logger.warning("%s is damaged or was cut short; looking for an earlier one.", path)
    raise ConfigError(f"{folder} holds no whole checkpoint to resume. Leave out --ckpt_path to begin anew.")


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
