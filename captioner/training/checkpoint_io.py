"""Lightning's checkpoints as files: written whole or not at all, and known when they are read."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from captioner.errors import CheckpointError


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that it is there whole, or the one before it is."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: It cannot be written; the disk is full, most often.
        """
        path = Path(path)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except (
            OSError,
            RuntimeError,
        ) as error:  # torch's writer makes a RuntimeError of what the file says
            reason = error.strerror if isinstance(error, OSError) else "is the disk full?"
            whole = (
                "The checkpoint before it is whole: free some space, and go on with --ckpt_path"
                " last."
            )
            raise CheckpointError(
                f"{path} cannot be written ({reason}). "
                + (whole if path.is_file() else "Free some space.")
            ) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: It is none of a training run.
        """
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        except (
            Exception
        ) as error:  # whatever torch's unpickler and zip reader say of a foreign file
            raise CheckpointError(
                f"{path} is no checkpoint of a training run ({error})."
            ) from error
        if "pytorch-lightning_version" not in checkpoint:
            raise CheckpointError(f"{path} is no checkpoint of a training run.")
        return checkpoint
