"""What a training run is going to do, told before its first step: parameters, schedule, data, memory."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from captioner.data.dataset import Example, collate
from captioner.model.captioning import CaptioningModel
from captioner.training.lightning_module import CaptioningModule

logger = logging.getLogger(__name__)

Rows = Sequence[Sequence[str]]


class PrintPlan(Callback):
    """Logs the plan of a run as a table when training starts, on the first of several processes.

    Args:
        memory: Measure the expected memory too, which takes a second or two.
    """

    def __init__(self, memory: bool = True) -> None:
        self.memory = memory

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the plan."""
        if trainer.is_global_zero:
            assert isinstance(pl_module, CaptioningModule)
            logger.info("%s", describe_plan(trainer, pl_module, memory=self.memory))


def describe_plan(trainer: Trainer, module: CaptioningModule, *, memory: bool = True) -> str:
    """The plan of a run whose data and optimizer are set up, as lines of aligned text, with or without its memory.

    Nothing is changed by asking: neither the model nor a random state.
    """
    parts = [
        ("Parameters", _parameters(trainer, module), "<>>><"),
        ("Schedule", _schedule(trainer, module), "<<"),
        ("Data", _data(trainer), "<<"),
    ]
    if memory:
        parts.append((f"Memory of {trainer.strategy.root_device}, expected", _memory(trainer, module), "<>>"))
    lines = ["The plan"]
    for title, rows, sides in parts:
        lines += ["", title, *(f"  {line}" for line in _aligned(rows, sides))]
    if memory:
        lines.append(
            "  Kernels' work space, what is computed on the way and the allocator's fragmentation come on top."
        )
    return "\n".join(lines)


def _parameters(trainer: Trainer, module: CaptioningModule) -> Rows:
    begins = {"encoder": module.finetune.from_epoch}
    rows = [("", "number", "peak rate", "weight decay", "trains")]
    groups = trainer.optimizers[0].param_groups
    for group in groups:
        epoch = begins.get(group["name"].split("/")[0], 0)
        number = sum(parameter.numel() for parameter in group["params"])
        rate, decay = f"{group['initial_lr']:g}", f"{group['weight_decay']:g}"
        rows.append((group["name"], f"{number:,}", rate, decay, f"from epoch {epoch}"))
    total = sum(parameter.numel() for parameter in module.parameters())
    trained = sum(parameter.numel() for group in groups for parameter in group["params"])
    rows.append(("frozen, of the encoder", f"{total - trained:,}", "", "", "never"))
    rows.append(("whole network", f"{total:,}", "", "", f"{trained:,} of them"))
    return rows


def _schedule(trainer: Trainer, module: CaptioningModule) -> Rows:
    critical = module.self_critical
    drawn = f"{critical.samples} of each image, {critical.weight:g} of the loss" if critical.weight else "none"
    each, ranks, images = trainer.accumulate_grad_batches, trainer.world_size, trainer.datamodule.batch_size  # type: ignore[attr-defined]
    steps = math.ceil(trainer.num_training_batches / each)
    resumed = f", beginning in epoch {trainer.current_epoch}" if trainer.global_step else ""
    return [
        ("epochs", f"{trainer.max_epochs} of {steps:,} steps, {trainer.estimated_stepping_batches:,} in all{resumed}"),
        ("images a step", f"{images * ranks * each}: {images} x {ranks} processes x {each} accumulated batches"),
        (
            "learning rate",
            f"up to its peak in {module.warmup_steps} steps, down to {module.final_share:.3g} of it in a half cosine",
        ),
        ("drawn captions", drawn),
    ]


def _data(trainer: Trainer) -> Rows:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    rows = []
    for split, records in data.records.items():
        captions = sum(len(record.captions) for record in records)
        rows.append((split, f"{len(records):,} images, {captions:,} captions"))
    rows.append(("vocabulary", f"{len(data.vocabulary):,} words"))
    rows.append(("loaded by", f"{data.workers} worker processes" if data.workers else "the training process"))
    views = f"cached while the encoder is frozen, {data.views} of each image" if data.views else "computed at each step"
    rows.append(("features", views))
    return rows


# --- Memory ---


def _memory(trainer: Trainer, module: CaptioningModule) -> Rows:
    finetune, device = module.finetune, trainer.strategy.root_device
    stages = {"frozen encoder": False, f"from epoch {finetune.from_epoch}": True}
    if not finetune.stages:
        stages.popitem()
    elif finetune.from_epoch <= trainer.current_epoch:
        stages.pop("frozen encoder")
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    columns = []
    for trains in stages.values():
        gradients = sum(
            parameter.nbytes
            for group in trainer.optimizers[0].param_groups
            for parameter in group["params"]
            if trains or not group["name"].startswith("encoder")
        )
        column = {"weights": weights, "gradients": gradients, "AdamW's two moments": 2 * gradients}
        if isinstance(trainer.strategy, DDPStrategy):
            column["gradients on their way to other processes"] = gradients
        if any(_averages_on(device, callback) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            column["averaged weights"] = weights
        if module.teachers is not None:
            column["teachers' weights"] = module.teachers.nbytes
        column[f"kept for backward of {trainer.datamodule.batch_size} images"] = _activations(trainer, module, trains)  # type: ignore[attr-defined]
        columns.append({**column, "in all": sum(column.values())})
    if device.type == "cuda":
        there_is = torch.cuda.get_device_properties(device).total_memory
        columns = [{**column, "there is": there_is} for column in columns]
    return [("", *stages), *((name, *(_megabytes(column[name]) for column in columns)) for name in columns[0])]


def _averages_on(device: torch.device, callback: Callback) -> bool:
    """Whether a callback keeps averaged weights on a device."""
    average = callback._average_model if isinstance(callback, WeightAveraging) else None
    return average is not None and next(average.parameters()).device == device


def _activations(trainer: Trainer, module: CaptioningModule, trains: bool) -> float:
    """Bytes kept for the backward pass of a batch; not a number where this version of torch cannot tell."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    critical = module.self_critical
    captions = _captions(data, critical.samples if critical.weight else 0)
    shape: tuple[int, ...] = (len(captions), 3, module.preprocessing.size, module.preprocessing.size)
    if data.views and not trains:
        shape = (len(captions), module.network.encoder.regions, module.network.encoder.width)
    finetune = module.finetune

    def compute(network: CaptioningModel, images: Tensor) -> object:
        network.encoder.unfreeze(finetune.stages if trains else (), freeze_batchnorm=finetune.freeze_batchnorm)
        output = network.train().decoder(network.encoder(images) if images.ndim == 4 else images, captions)
        logits = output.logits.float()
        return output, nn.functional.cross_entropy(logits, output.targets, label_smoothing=module.label_smoothing)

    try:
        return kept_for_backward(module.network, shape, compute, trainer.precision_plugin.forward_context())
    except Exception as error:  # a number that is only shown must not stop a run
        logger.debug("The activations' memory is not known: %s", error)
        return math.nan


def _captions(data: Any, drawn: int) -> Tensor:
    """The captions of the first images of the training split as a batch (B, K, T); the longest stand for drawn ones."""
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
    """How much memory a forward pass keeps until the backward pass.

    It is measured on a copy of the model made of torch's fake tensors, which have a shape, a type and a device but no
    content: nothing is computed, no memory is taken, no random number is drawn, and the model stays as it is.

    Args:
        model: The model, on any device.
        shape: Of its input.
        compute: Runs the copy on the input, and returns what leads back to all that is kept, such as the loss.
        context: Under which it runs, such as autocast.

    Returns:
        Bytes, the input among them; not parameters and buffers. Memory that several tensors share counts once.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = {id(tensor): mode.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())}
    own = {fake.untyped_storage()._cdata for fake in fakes.values()}
    like = next(model.parameters())
    with mode:
        inputs = torch.empty(shape, dtype=like.dtype, device=like.device)
    copied = copy.deepcopy(model, dict(fakes))  # finds each tensor copied already
    storages = {}  # kept alive here, so that no other gets the identity of one that is gone

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    keep(inputs)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context or nullcontext():
        output = compute(copied, inputs)
    total = sum(storage.nbytes() for storage in storages.values())
    del output  # not before
    return total


def _megabytes(size: float) -> str:
    return "unknown" if math.isnan(size) else f"{size / 1e6:,.0f} MB"


def _aligned(rows: Rows, sides: str) -> list[str]:
    """Rows as lines, each column at the left ("<") or the right (">") side of its width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False))
        for row in rows
    )
    return [line.rstrip() for line in lines]
