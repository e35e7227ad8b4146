"""The plan of a run, logged before its first step: parameters, schedule, data, memory."""

import logging
import math
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from captioner.data.datamodule import CaptionData
from captioner.training.lightning_module import CaptioningModule
from captioner.training.memory import expected_memory
from captioner.training.precision import describe_precision
from captioner.training.teaching import check_teaching, count_split

logger = logging.getLogger(__name__)

Rows = Sequence[Sequence[str]]


class PrintPlan(Callback):
    """Log the plan of a run as a table when training starts, on the first process only.

    Fail early if most captions are unusable.

    Args:
        memory: Estimate the memory too, which takes a second or two.
    """

    def __init__(self, memory: bool = True) -> None:
        self.memory = memory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the captions.

        Raises:
            DataError: Most of them are unusable, or validation cannot select the best epoch.
        """
        data = CaptionData.of(trainer)
        check_teaching(data)
        monitored = getattr(trainer.checkpoint_callback, "monitor", None)
        if len(data.records["val"]) == 1 and monitored == "val/CIDEr-D":
            logger.warning(
                "CIDEr-D is always 0 with a single validation image, so it cannot select the best"
                " epoch. Add images, or use another score: --checkpoint.monitor val/BLEU-4."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the plan."""
        if trainer.is_global_zero:
            assert isinstance(pl_module, CaptioningModule)
            logger.info("%s", describe_plan(trainer, pl_module, memory=self.memory))


def describe_plan(trainer: Trainer, module: CaptioningModule, *, memory: bool = True) -> str:
    """Describe a run as aligned text; neither the model nor any random state is changed.

    Args:
        trainer: A trainer whose data and optimizer are set up.
        module: The module that it trains.
        memory: Whether to include the expected memory.
    """
    parts = [
        ("Parameters", _parameters(trainer, module), "<>>><"),
        ("Schedule", _schedule(trainer, module), "<<"),
        ("Data", _data(trainer), "<<"),
    ]
    if memory:
        parts.append(
            (f"Memory of {trainer.strategy.root_device}, expected", _memory(trainer, module), "<>>")
        )
    lines = ["The plan"]
    for title, rows, sides in parts:
        lines += ["", title, *(f"  {line}" for line in _aligned(rows, sides))]
    if memory:
        lines.append(
            "  Not included: kernels' workspace, temporary tensors and fragmentation of the"
            " allocator."
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


def _epochs(trainer: Trainer) -> str:
    """Say how many epochs there are; steps or time may be the only limit."""
    return "any number" if trainer.max_epochs == -1 else f"{trainer.max_epochs}"


def _in_all(trainer: Trainer) -> str:
    """Say how many steps there are, unless only time limits them."""
    steps = trainer.estimated_stepping_batches
    return "" if steps == math.inf else f", {steps:,} in all"


def _resumed(trainer: Trainer) -> str:
    """Say in which epoch a resumed run goes on: not in one whose last batch is done."""
    if not trainer.global_step:
        return ""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return f", beginning in epoch {trainer.current_epoch + (done >= trainer.num_training_batches)}"


def _schedule(trainer: Trainer, module: CaptioningModule) -> Rows:
    critical = module.self_critical
    drawn = (
        f"{critical.samples} of each image, {critical.weight:g} of the loss"
        if critical.weight
        else "none"
    )
    each, ranks, batch_size = (
        trainer.accumulate_grad_batches,
        trainer.world_size,
        CaptionData.of(trainer).batch_size,
    )
    steps = math.ceil(trainer.num_training_batches / each)
    return [
        ("epochs", f"{_epochs(trainer)} of {steps:,} steps{_in_all(trainer)}{_resumed(trainer)}"),
        (
            "images per step",
            f"{batch_size * ranks * each}: {batch_size} x {ranks} processes x {each} accumulated"
            " batches",
        ),
        (
            "learning rate",
            (
                f"up to its peak in {module.warmup_steps} steps, down to {module.final_share:.3g}"
                " of it in a half cosine"
            ),
        ),
        (
            "precision",
            describe_precision(trainer.precision, trainer.strategy.root_device.type),
        ),
        ("drawn captions", drawn),
        ("average with start", _average(module)),
    ]


def _average(module: CaptioningModule) -> str:
    average = module.start_average
    if average is None:
        return "none"
    return (
        f"{average.share:g} trained weights, {1 - average.share:g} of the start: validated, saved"
    )


def _data(trainer: Trainer) -> Rows:
    data = CaptionData.of(trainer)
    rows: list[tuple[str, str]] = []
    for split, records in data.records.items():
        captions = sum(len(record.captions) for record in records)
        rows.append((split, f"{len(records):,} images, {captions:,} captions"))
    rows.append(("vocabulary", f"{len(data.vocabulary):,} words"))
    train = count_split(data, "train")
    rows.append(
        (
            "training words",
            f"{train.words:,}, {100 * train.unknown_words / max(1, train.words):.1f} % unknown",
        )
    )
    poor = f"{train.empty:,} without words, {train.unknown:,} with unknown words only"
    rows.append(("training captions", f"{poor}, {train.cut:,} cut to {data.max_length} words"))
    rows.append(
        (
            "loaded by",
            f"{data.workers} worker processes" if data.workers else "the training process",
        )
    )
    views = (
        f"cached while the encoder is frozen, {data.views} of each image"
        if data.views
        else "computed at each step"
    )
    rows.append(("features", views))
    return rows


def _memory(trainer: Trainer, module: CaptioningModule) -> Rows:
    stages = expected_memory(trainer, module)
    columns = list(stages.values())
    return [
        ("", *stages),
        *((part, *(_megabytes(column[part]) for column in columns)) for part in columns[0]),
    ]


def _megabytes(size: float) -> str:
    return "unknown" if math.isnan(size) else f"{size / 1e6:,.0f} MB"


def _aligned(rows: Rows, sides: str) -> list[str]:
    """Format rows as lines, with each column aligned left ("<") or right (">")."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)
        )
        for row in rows
    )
    return [line.rstrip() for line in lines]
