"""The average of a run's weights and those that it began with (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.errors import ConfigError
from captioner.model.captioning import CaptioningModel

OPTION = "average_with_start"  # in the section `model` of a config, and in Lightning checkpoints


@dataclass(frozen=True)
class StartAverage:
    """Averages the weights of a network with those that its run began with.

    Training itself goes on with its own weights: the average is only validated and saved.

    Attributes:
        share: Weight of the trained weights, above 0; 1 - share is that of the start.
        weights: The weights at the start by their names in the network, on the CPU. Tensors that
            never train are left out. Rows of words and styles that are new to the vocabulary are
            missing at the end, and keep the trained weights.
    """

    share: float
    weights: Mapping[str, Tensor]

    @classmethod
    def begin(
        cls, share: float, init_from: str | None, network: CaptioningModel, *, encoder: bool
    ) -> "StartAverage":
        """Read the weights that a run begins with.

        Args:
            share: Weight of the trained weights.
            init_from: The checkpoint folder, or "bundled".
            network: The network of the run.
            encoder: Whether some of the encoder trains.

        Raises:
            CheckpointError: The folder is not a checkpoint.
            ConfigError: The share is out of range, or the run begins with a new network.
        """
        if not 0 < share <= 1:
            raise ConfigError(
                f"model.{OPTION} is {share}; expected the share of the trained weights, above 0 and"
                " at most 1, or null to leave them as they are."
            )
        if init_from is None:
            raise ConfigError(
                f"model.{OPTION} is {share}, but model.init_from is null: random weights are"
                " nothing to average with. Name the checkpoint to begin with as model.init_from, or"
                f" set model.{OPTION} to null."
            )
        checkpoint = read_checkpoint(init_from)
        before = TorchBackend.from_checkpoint(checkpoint).model
        parts = ["decoder.", "temporal."]
        if encoder:
            parts.append("encoder.")
        if before.events and network.events and before.events.labels == network.events.labels:
            parts.append("event_head.")  # else it is a new one
        state = before.portable_state()
        return cls(share, {name: state[name] for name in state if name.startswith(tuple(parts))})

    def apply(self, network: CaptioningModel) -> None:
        """Replace the trained weights of a network by the average."""
        state = network.state_dict()
        with torch.no_grad():
            for name, start in self.weights.items():
                known = state[name][: len(start)] if start.ndim else state[name]
                known.lerp_(start.to(known), 1 - self.share)

    @contextmanager
    def applied(self, network: CaptioningModel) -> Iterator[None]:
        """Use the average within a context; afterwards the weights are the same bit for bit.

        They are put back after each batch of validation, rather than after the last one, because
        callbacks such as `EMAWeightAveraging` exchange the weights before and after an epoch.
        """
        state = network.state_dict()
        trained = {name: state[name].clone() for name in self.weights}
        try:
            self.apply(network)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in trained.items():
                    state[name].copy_(tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights at the start."""
        return sum(tensor.nbytes for tensor in self.weights.values())

    def state(self) -> dict[str, Any]:
        """Return what a Lightning checkpoint stores; `StartAverage(**state)` restores it."""
        return {"share": self.share, "weights": dict(self.weights)}
