"""The model card that training writes."""

import math
from collections.abc import Mapping, Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from captioner.data.datamodule import CaptionData
from captioner.data.splits import ValidationSet
from captioner.training.lightning_module import CaptioningModule


def model_card(module: CaptioningModule, trainer: Trainer) -> str:
    """Describe a trained model in Markdown.

    Args:
        module: The model, just validated.
        trainer: Its trainer, with the scores.

    Returns:
        The text `model.about` of the config, then data, architecture and validation scores.
    """
    data = CaptionData.of(trainer)
    encoder, decoder = module.network.configs
    parameters = sum(parameter.numel() for parameter in module.network.parameters())
    records, sets = data.training.records, data.validation_sets
    kind = "clips" if module.network.frames else "images"
    lines = [
        module.about.strip() or "# A captioner model",
        "",
        "## Facts",
        "",
        (
            f"- Encoder {encoder.name}, {module.preprocessing.size} pixels,"
            f" {module.network.encoder.regions} regions;{_temporal(module)} decoder {decoder.name};"
            f" {parameters / 1e6:.1f} million parameters."
        ),
        (
            f"- Trained on {len(records):,} {kind} with"
            f" {sum(len(record.captions) for record in records):,} captions;"
            f" {len(module.vocabulary):,} words."
        ),
        *_written(data.training.captions_by),
        *_events(module, trainer),
        *(
            [f"- Styles: {', '.join(module.vocabulary.styles)}."]
            if module.vocabulary.styles
            else []
        ),
        *_averaged(module),
        f"- Epoch {trainer.current_epoch}, selected by {_selection(trainer, sets, kind)}.",
        "",
        f"Validation scores (x100), beam {module.decoding.beam_size}, against the raw references:",
        "",
        *_table(trainer, sets),
    ]
    return "\n".join(lines) + "\n"


def _temporal(module: CaptioningModule) -> str:
    """Describe how the frames of a clip are joined; "" for models of photos."""
    frames = module.network.frames
    return f" {frames} frames joined by {module.network.temporal_config.name};" if frames else ""


def _events(module: CaptioningModule, trainer: Trainer) -> list[str]:
    """Describe the events that it tells, if any."""
    events = module.network.events
    if events is None:
        return []
    mean = trainer.callback_metrics.get("events/mAP")
    score = "" if mean is None else f" Mean average precision (x100) {100 * float(mean):.1f}."
    labels = ", ".join(events.labels)
    return [f"- Tells events in windows of {events.seconds:g} s: {labels}.{score}"]


def _averaged(module: CaptioningModule) -> list[str]:
    """Describe the average with the weights at the start, if there is one."""
    average = module.start_average
    if average is None:
        return []
    return [
        f"- Average of weights: {average.share:g} after training, {1 - average.share:g} before"
        " (WiSE-FT)."
    ]


def _written(captions_by: Mapping[str, int]) -> list[str]:
    """Describe who wrote the captions, if the data say so."""
    if not any(captions_by):
        return []
    names = {"human": "people", "": "unknown authors"}
    counts = [
        f"{count:,} captions by {names.get(by, by)}" for by, count in sorted(captions_by.items())
    ]
    return [f"- Of these, {', '.join(counts)}."]


def _selection(trainer: Trainer, sets: Sequence[ValidationSet], kind: str) -> str:
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint)
    score = str(callback.monitor).removeprefix("val/")
    if len(sets) == 1:
        return f"{score} on {len(sets[0].records):,} validation {kind}"
    weighed = [
        f"{each.name} (weight {each.weight:g}, {len(each.records):,} {kind})" for each in sets
    ]
    return f"the mean {score} on the validation sets {', '.join(weighed)}"


def _table(trainer: Trainer, sets: Sequence[ValidationSet]) -> list[str]:
    """Format the scores as a table, with one row per set if the sets have names."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = [
        name.removeprefix("val/")
        for name in metrics
        if name.startswith("val/") and name.count("/") == 1
    ]
    named = any(each.name for each in sets)
    heading = ["set"] * named + names

    def row(title: str, prefix: str) -> list[str]:
        # `trainer.limit_val_batches` may leave a set without scores
        scores = [metrics.get(prefix + name, math.nan) for name in names]
        shown = ["" if math.isnan(score) else f"{100 * score:.1f}" for score in scores]
        return [title] * named + shown

    rows = [row(each.name, f"val/{each.name}/" if each.name else "val/") for each in sets]
    if len(sets) > 1:
        rows.append(row("mean", "val/"))
    first, *others = [f"| {' | '.join(row)} |" for row in (heading, *rows)]
    return [first, f"|{'---|' * len(heading)}", *others]
