"""Where a run's curves and sample captions go: TensorBoard, and Weights & Biases if asked for."""

import importlib
import uuid
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from captioner.errors import ConfigError, MissingExtraError

WANDB_ID = "wandb_id.txt"


def make_loggers(folder: Path, wandb: str | None = None) -> list[Logger]:
    """The loggers of a run.

    A run that is resumed in its folder goes on in both. Weights & Biases keeps its own files in the
    folder too, and
    heeds its usual environment variables: `WANDB_MODE=offline` sends nothing.

    Args:
        folder: The run's folder.
        wandb: Project on Weights & Biases; null for TensorBoard alone.

    Raises:
        MissingExtraError: The package wandb isn't installed.
        ConfigError: Nobody is logged in at Weights & Biases.
    """
    folder = (
        folder.absolute()
    )  # they write from threads, even while the config's reader is in another folder
    loggers: list[Logger] = [TensorBoardLogger(folder, name="", version="")]
    if wandb is not None:
        _log_in()
        loggers.append(
            WandbLogger(project=wandb, save_dir=folder, name=folder.name, id=_wandb_id(folder))
        )
    return loggers


def _log_in() -> None:
    """Fail now rather than at the first step that is logged, which may be hours away."""
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
    """The run's id on Weights & Biases, kept in its folder by the one process that logs."""
    if not _logs():
        return None
    path = folder / WANDB_ID
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()


def _logs() -> bool:
    """Whether this is the one of several processes that logs."""
    return getattr(rank_zero_only, "rank", 0) == 0
