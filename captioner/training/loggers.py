"""Loggers of curves and sample captions: TensorBoard, and optionally Weights & Biases."""

import importlib
import uuid
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from captioner.errors import ConfigError, MissingExtraError

WANDB_ID = "wandb_id.txt"


def make_loggers(folder: Path, wandb: str | None = None) -> list[Logger]:
    """Create the loggers of a run.

    A resumed run continues the logs of both. Weights & Biases writes its files to the same folder,
    and respects its usual environment variables: `WANDB_MODE=offline` sends nothing.

    Args:
        folder: The run's folder.
        wandb: Project on Weights & Biases; null logs to TensorBoard only.

    Raises:
        MissingExtraError: The package wandb isn't installed.
        ConfigError: No user is logged in to Weights & Biases.
    """
    folder = (
        folder.absolute()
    )  # absolute, as loggers write from threads while jsonargparse may change the directory
    loggers: list[Logger] = [TensorBoardLogger(folder, name="", version="")]
    if wandb is not None:
        _log_in()
        loggers.append(
            WandbLogger(project=wandb, save_dir=folder, name=folder.name, id=_wandb_id(folder))
        )
    return loggers


def _log_in() -> None:
    """Log in now, to fail early rather than at the first logged step."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise MissingExtraError("Logging to Weights & Biases", "wandb") from error
    try:
        if _logs():
            wandb.login()
    except wandb.errors.Error as error:
        raise ConfigError(
            f"Weights & Biases: {error} Or set WANDB_MODE=offline, which sends nothing."
        ) from error


def _wandb_id(folder: Path) -> str | None:
    """Read or create the run's id on Weights & Biases; only the logging process stores it."""
    if not _logs():
        return None
    path = folder / WANDB_ID
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()


def _logs() -> bool:
    """Return whether this is the process that logs."""
    return getattr(rank_zero_only, "rank", 0) == 0
