"""A seed for each step, so that a run that is resumed goes on as it would have."""

import os

import numpy as np
import torch
from lightning.pytorch import LightningModule


def seed_step(module: LightningModule, batch_idx: int) -> None:
    """Seed torch for a training step, by the run's seed, the epoch, the batch and the process.

    Args:
        module: What is trained.
        batch_idx: Which of the epoch's batches comes.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    circumstances = (seed, module.current_epoch, batch_idx, module.global_rank)
    torch.manual_seed(int(np.random.SeedSequence(circumstances).generate_state(1, np.uint64)[0]))
