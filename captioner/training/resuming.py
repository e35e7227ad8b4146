"""Resuming: find a run's last intact checkpoint, and keep the options that cannot change."""

import logging
import os
import zipfile
from pathlib import Path

import yaml
from jsonargparse import Namespace

from captioner.errors import ConfigError

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # folder of the checkpoints, in the run's folder
CONFIG = "config.yaml"  # in the run's folder
# A checkpoint contains the optimizer, its schedule, the weights and those to average them with, so
# the options that created these have no effect on a resumed run.
KEPT = ("model.learning_rate", "model.weight_decay", "model.finetune.learning_rate")
KEPT_OR_NULL = ("model.weights", "model.init_from", "model.average_with_start")
_MISSING = object()


def find_checkpoint(asked: str, run: Path) -> Path:
    """Find the checkpoint to resume from.

    Args:
        asked: "last", for the last intact one of the run, or a file.
        run: The run's folder.

    Raises:
        ConfigError: There is no intact checkpoint, or the file is truncated.
    """
    folder = run / CHECKPOINTS
    if asked != "last":
        if not _is_whole(Path(asked)):
            raise ConfigError(
                f"{asked} is missing or damaged. Choose another checkpoint, or --ckpt_path last."
            )
        return Path(asked)
    found = sorted(
        folder.glob("*.ckpt"), key=lambda path: (path.name == "last.ckpt", path.stat().st_mtime)
    )
    for path in reversed(found):
        if _is_whole(path):
            return path
        logger.warning("%s is damaged or truncated; looking for an earlier checkpoint.", path)
    raise ConfigError(
        f"{folder} has no intact checkpoint to resume. Omit --ckpt_path to start a new run."
    )


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def keep_settled(config: Namespace, checkpoint: Path, begin_with: tuple[str, str]) -> None:
    """Restore the options that a resumed run ignores, and warn about each one that was changed.

    What it began with may have moved: where the earlier path is gone, the new one holds.

    Args:
        config: The resumed run's config; changed in place.
        checkpoint: The resumed checkpoint, in its run's folder.
        begin_with: The option, and the result in a run's folder, that a new run begins with.
    """
    begin, result = begin_with
    path = checkpoint.parent.parent / CONFIG
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        logger.warning(
            "%s cannot be read, so changed options that a resumed run ignores go unreported.", path
        )
        return
    for option in (*KEPT, *KEPT_OR_NULL):
        was, now = _value(before, option), config.get(option)
        if was is _MISSING and option in KEPT_OR_NULL:
            was = None  # a saved config leaves out what is null
        if was is not _MISSING and was != now and not _has_moved(option, was, now):
            logger.warning(
                "%s is %s now and was %s when the run began: a resumed run keeps %s. To train with"
                " another value, start a new run with --%s %s.",
                option,
                _as_said(now),
                _as_said(was),
                _as_said(was),
                begin,
                checkpoint.parent.parent / result,
            )
            config[option] = was


def precision_before(run: Path) -> str | int | None:
    """Read the precision from the config of a run; None if missing or unreadable."""
    try:
        config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    precision = _value(config, "trainer.precision")
    return precision if isinstance(precision, (str, int)) else None


def _value(config: object, option: str) -> object:
    """Look up an option in a parsed config."""
    for key in option.split("."):
        config = config.get(key, _MISSING) if isinstance(config, dict) else _MISSING
    return config


def _has_moved(option: str, was: object, now: object) -> bool:
    """Return whether what a run began with is gone from its path, and is at another one now."""
    if not isinstance(was, str) or not isinstance(now, str) or was == "bundled":
        return False
    # Weights may have a name instead of a path.
    is_path = option == "model.init_from" or (
        option == "model.weights" and (os.sep in was or was.endswith((".safetensors", ".pth")))
    )
    return is_path and not os.path.exists(was) and os.path.exists(now)


def _as_said(value: object) -> str:
    return "null" if value is None else str(value)
