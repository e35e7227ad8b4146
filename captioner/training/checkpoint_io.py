"""Read and write Lightning's checkpoint files: atomic writes, and clear errors on foreign files."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from captioner.errors import CheckpointError


class WholeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically: to a temporary file that is then renamed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: The file cannot be written; usually the disk is full.
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
        ) as error:  # torch's writer turns the file's OSError into a RuntimeError
            reason = error.strerror if isinstance(error, OSError) else "is the disk full?"
            whole = (
                "The previous checkpoint is intact: free some space, then resume with --ckpt_path"
                " last."
            )
            raise CheckpointError(
                f"{path} cannot be written ({reason}). "
                + (whole if path.is_file() else "Free some space.")
            ) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: The file is not a training checkpoint.
        """
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        except (
            Exception
        ) as error:  # torch's unpickler and zip reader raise many types on a foreign file
            raise CheckpointError(f"{path} is not a training checkpoint ({error}).") from error
        if "pytorch-lightning_version" not in checkpoint:
            raise CheckpointError(f"{path} is not a training checkpoint.")
        return checkpoint
