"""Estimate the memory that training needs with fake tensors, without computing anything."""

import copy
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from captioner.data.datamodule import CaptionData
from captioner.data.dataset import Example, collate
from captioner.model.captioning import CaptioningModel
from captioner.training.lightning_module import CaptioningModule

logger = logging.getLogger(__name__)

Parts = dict[str, float]  # bytes of each part; NaN if unknown


def expected_memory(trainer: Trainer, module: CaptioningModule) -> dict[str, Parts]:
    """Estimate the memory of each stage of a run: with the encoder frozen, and with it training.

    Neither the model nor any random state is changed.

    Args:
        trainer: A trainer whose data and optimizer are set up.
        module: The module that it trains.

    Returns:
        The parts of each stage that is still to come; "in all" is their sum, "there is" the GPU's
        total memory.
    """
    finetune = module.finetune
    stages = {"frozen encoder": False, f"from epoch {finetune.from_epoch}": True}
    if finetune.begins is None:
        stages.popitem()
    elif finetune.begins <= trainer.current_epoch:
        stages.pop("frozen encoder")
    return {name: _parts(trainer, module, trains) for name, trains in stages.items()}


def _parts(trainer: Trainer, module: CaptioningModule, trains: bool) -> Parts:
    device, data = trainer.strategy.root_device, CaptionData.of(trainer)
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    gradients = sum(
        parameter.nbytes
        for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
        if trains or not group["name"].startswith("encoder")
    )
    parts: Parts = {
        "weights": weights,
        "gradients": gradients,
        "AdamW's two moments": 2 * gradients,
    }
    if isinstance(trainer.strategy, DDPStrategy):
        parts["gradient buckets for other processes"] = gradients
    if any(_averages_on(device, callback) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        parts["averaged weights"] = weights
    if module.teachers is not None:
        parts["teachers' weights"] = module.teachers.nbytes
    if module.original is not None:
        parts["the original encoder's weights"] = module.original.nbytes
    if module.start_average is not None and device.type == "cpu":
        parts["weights at the start"] = module.start_average.nbytes
    parts[f"kept for backward of {data.batch_size} images"] = _activations(
        trainer, module, data, trains
    )
    parts["in all"] = sum(parts.values())
    if device.type == "cuda":
        parts["there is"] = torch.cuda.get_device_properties(device).total_memory
    return parts


def _averages_on(device: torch.device, callback: Callback) -> bool:
    """Return whether a callback keeps averaged weights on a device."""
    average = callback._average_model if isinstance(callback, WeightAveraging) else None
    return average is not None and next(average.parameters()).device == device


def _activations(
    trainer: Trainer, module: CaptioningModule, data: CaptionData, trains: bool
) -> float:
    """Estimate the bytes saved for a batch's backward pass; NaN if this torch cannot tell."""
    critical = module.self_critical
    captions = _captions(data, critical.samples if critical.weight else 0)
    size, frames = module.preprocessing.size, module.network.frames
    shape: tuple[int, ...] = (len(captions), *((frames,) if frames else ()), 3, size, size)
    if data.views and not trains:
        encoder = module.network.encoder
        shape = (len(captions), encoder.regions * max(1, frames), encoder.width)
    finetune, smoothing = module.finetune, module.loss.label_smoothing

    def compute(network: CaptioningModel, pixels: Tensor) -> object:
        network.encoder.unfreeze(
            finetune.stages if trains else (), freeze_batchnorm=finetune.freeze_batchnorm
        )
        features = network.train().encoder(pixels) if pixels.ndim > 3 else pixels
        output = network.decoder(network.regions_of(features), captions)
        logits = output.logits.float()
        return output, nn.functional.cross_entropy(
            logits, output.targets, label_smoothing=smoothing
        )

    try:
        return kept_for_backward(
            module.network, shape, compute, trainer.precision_plugin.forward_context()
        )
    except Exception as error:  # the number is only informative: it must not stop a run
        logger.debug("The activations' memory is not known: %s", error)
        return math.nan


def _captions(data: CaptionData, drawn: int) -> Tensor:
    """Collate the captions of the first training images to (B, K, T).

    Copies of the longest caption of each image stand for its sampled captions.
    """
    nothing = np.empty(0, np.uint8)
    examples = [
        Example(nothing, data.ids["train"][index][: data.captions_per_image], index)
        for index in range(min(data.batch_size, len(data.records["train"])))
    ]
    captions = collate(examples).captions
    return torch.cat([captions[:, :1].expand(-1, drawn, -1), captions], dim=1)


def kept_for_backward(
    model: nn.Module,
    shape: tuple[int, ...],
    compute: Callable[[Any, Tensor], object],
    context: AbstractContextManager[object] | None = None,
) -> int:
    """Measure the memory that a forward pass saves for the backward pass.

    It is measured on a copy of the model made of torch's fake tensors, which have a shape, a dtype
    and a device but no content: nothing is computed or allocated, no random number is drawn, and
    the model is not changed.

    Args:
        model: The model, on any device.
        shape: The shape of its input.
        compute: Runs the copy on the input, and returns a result whose graph holds all saved
            tensors, such as the loss.
        context: The context under which it runs, such as autocast.

    Returns:
        Bytes, including the input, without parameters and buffers. Memory that several tensors
        share counts once.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = {
        id(tensor): mode.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())
    }
    own = {fake.untyped_storage()._cdata for fake in fakes.values()}
    like = next(model.parameters())
    with mode:
        inputs = torch.empty(shape, dtype=like.dtype, device=like.device)
    copied = copy.deepcopy(model, dict(fakes))  # the memo replaces each tensor by its fake
    storages = {}  # kept alive, so that no new storage gets the id of a freed one

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    keep(inputs)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        context or nullcontext(),
    ):
        output = compute(copied, inputs)
    total = sum(storage.nbytes() for storage in storages.values())
    del output  # not before
    return total
