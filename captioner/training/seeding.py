"""Seed each step, so that a resumed run is identical to an uninterrupted one."""

import os

import numpy as np
import torch
from lightning.pytorch import LightningModule


def seed_step(module: LightningModule, batch_idx: int) -> None:
    """Seed torch for a training step, by the run's seed, the epoch, the batch and the process.

    Args:
        module: The module in training.
        batch_idx: The index of the next batch in the epoch.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    circumstances = (seed, module.current_epoch, batch_idx, module.global_rank)
    torch.manual_seed(int(np.random.SeedSequence(circumstances).generate_state(1, np.uint64)[0]))
