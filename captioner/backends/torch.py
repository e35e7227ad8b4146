"""A `Stepper` on a torch model, on any device."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.checkpoint import BUNDLED, Checkpoint, read_checkpoint
from captioner.decoding.search import Step
from captioner.errors import CheckpointError, ConfigError
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import Arrays, Decoder
from captioner.vocabulary import PAD


class TorchBackend:
    """Run a model, loaded from a checkpoint or in training.

    Args:
        model: The model; it is in evaluation mode only while it is used.
        device: "cpu", "cuda", "cuda:1", ...; None keeps the model's device.

    Raises:
        ConfigError: The device is not available.
    """

    name = "torch"

    def __init__(self, model: CaptioningModel, device: str | None = None) -> None:
        self._folder: Path | None = None  # None for a model in training
        self._process = os.getpid()
        try:
            self.model = model if device is None else model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"Device {device!r} cannot be used: {error}") from error

    @staticmethod
    def suits(checkpoint: Checkpoint, device: str | None) -> bool:
        """Return whether the weights are floats; torch runs them on any device."""
        return checkpoint.quantized is None

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str | None = None) -> "TorchBackend":
        """Load a checkpoint folder's model.

        Raises:
            CheckpointError: The weights are missing, damaged or don't match the architecture.
            ConfigError: The device is not available.
        """
        if checkpoint.quantized is not None:
            raise CheckpointError(
                f"{checkpoint.folder} is quantized and requires ONNX Runtime: backend onnx, device"
                " cpu. For anything else use the original checkpoint."
            )
        try:
            model = CaptioningModel.from_architecture(
                checkpoint.architecture,
                image_size=checkpoint.preprocessing.size,
                vocab_size=len(checkpoint.vocabulary),
                pad=PAD,
                tags=checkpoint.tags,
                events=checkpoint.events,
            )
            model.name_tags(checkpoint.vocabulary.words)
        except (LookupError, TypeError, ValueError, RuntimeError, ConfigError) as error:
            raise CheckpointError(
                f"{checkpoint.folder / 'config.json'}: unknown architecture: {error}"
            ) from error
        path = checkpoint.weights
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        model.load_portable_state(state)
        backend = cls(model.eval(), device)
        backend._folder = checkpoint.folder.absolute()
        return backend

    def __reduce__(self) -> tuple[Any, ...]:
        if self._folder is None:
            raise ConfigError(
                "A model in training cannot be sent to another process, because it is not saved"
                " yet. Save it, then load it there with Captioner.from_pretrained."
            )
        bundled = self._folder == BUNDLED  # which lies elsewhere on another machine
        return _load_backend, (None if bundled else str(self._folder), str(self.device))

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchBackend":
        other = TorchBackend(copy.deepcopy(self.model, memo))
        other._folder = self._folder
        return other

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def encode(self, pixels: NDArray[np.float32] | Tensor) -> "TorchStepper":
        """Encode images (B, 3, S, S) or clips (B, F, 3, S, S); return a stepper over them."""
        self._survive_fork()
        with torch.inference_mode(), evaluating(self.model):
            return self.start(self.model.encoder(torch.as_tensor(pixels).to(self.device)))

    def start(self, features: Tensor) -> "TorchStepper":
        """Return a stepper over images or clips whose features are already computed."""
        self._survive_fork()
        with torch.inference_mode(), evaluating(self.model):
            features = features.to(self.device)
            regions, events = self.model.look(features)
            image, state = self.model.decoder.prepare(regions)
            scores = [
                None if each is None else each.float().cpu().numpy()
                for each in (self.model.classes(features), events)
            ]
        return TorchStepper(self.model.decoder, image, state, len(features), *scores)

    def _survive_fork(self) -> None:
        """Use one thread in a forked process: torch would wait forever for the parent's threads."""
        if self._process == os.getpid():
            return
        if self.device.type != "cpu":
            raise ConfigError(
                f"A model on {self.device} doesn't work in a forked process. Load it in that"
                " process, or use the spawn method: multiprocessing.get_context('spawn')."
            )
        torch.set_num_threads(1)
        self._process = os.getpid()


def _load_backend(folder: str | None, device: str) -> TorchBackend:
    return TorchBackend.from_checkpoint(read_checkpoint(folder), device)


class TorchStepper:
    """Decode a batch of encoded images; see `captioner.decoding.search.Stepper`.

    Args:
        decoder: The decoder.
        image: The arrays that all rows of an image share, (B, ...) each.
        state: The first state, (B, H) each.
        batch_size: B.
        classes: The classifier's logits of the images, (B, C); None for a model without it.
        events: The logits of events at each frame, (B, F, E); None for a model without.
    """

    def __init__(
        self,
        decoder: Decoder,
        image: Arrays,
        state: Arrays,
        batch_size: int,
        classes: NDArray[np.float32] | None = None,
        events: NDArray[np.float32] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.classes = classes
        self.events = events
        self.pooled = _pooled(image, state)
        self._decoder = decoder
        self._image = image
        self._start = image, state
        self._state = {name: array.unsqueeze(1) for name, array in state.items()}  # (B, K, H) each

    @torch.inference_mode()
    def step(
        self,
        parents: NDArray[np.int64],
        words: NDArray[np.int64],
        k: int,
        *,
        all_log_probs: bool = False,
    ) -> Step:
        """Continue the previous rows `parents` (B, K) by `words` (B, K); see `Stepper.step`."""
        device = next(iter(self._state.values())).device
        self._reorder(torch.from_numpy(parents).to(device))
        with evaluating(self._decoder):
            logits, self._state, attention = self._decoder.step(
                self._image, self._state, torch.from_numpy(words).to(device)
            )
        log_probs = logits.float().log_softmax(dim=2)  # (B, K, V)
        best = log_probs.topk(k, dim=2)
        return Step(
            words=best.indices.cpu().numpy(),
            log_probs=best.values.cpu().numpy(),
            attention=None if attention is None else attention.float().cpu().numpy(),
            all_log_probs=log_probs.cpu().numpy() if all_log_probs else None,
        )

    def again(self, images: NDArray[np.int64]) -> "TorchStepper":
        """Return a stepper before its first step over some of the images; see `Encoded.again`."""
        image, state = (
            {name: array[images] for name, array in part.items()} for part in self._start
        )
        classes = None if self.classes is None else self.classes[images]
        return TorchStepper(self._decoder, image, state, len(images), classes)

    def _reorder(self, parents: Tensor) -> None:
        """Let row (b, k) continue the previous row `parents[b, k]`; drop images without any row."""
        b, k, _ = next(iter(self._state.values())).shape
        self._state = {name: array.flatten(0, 1)[parents] for name, array in self._state.items()}
        if len(parents) < b:
            going = parents[:, 0] // k
            self._image = {name: array[going] for name, array in self._image.items()}


def _pooled(image: Arrays, state: Arrays) -> NDArray[np.float32]:
    """Return the mean of the regions' features, or the first state if the decoder keeps none."""
    with torch.inference_mode():
        values = image.get("values")
        pooled = torch.cat([*state.values()], dim=1) if values is None else values.mean(dim=1)
        array: NDArray[np.float32] = pooled.float().cpu().numpy()
    return array


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode, without dropout, within a context."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
