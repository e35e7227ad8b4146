"""The model card that training writes."""

from lightning.pytorch import Trainer

from captioner.data.datamodule import CaptionData
from captioner.training.lightning_module import CaptioningModule


def model_card(module: CaptioningModule, trainer: Trainer) -> str:
    """The facts about a trained model, as Markdown.

    Args:
        module: The model, just validated.
        trainer: Its trainer, with the scores.

    Returns:
        What the config says about the model, then its data, architecture and validation scores.
    """
    records = CaptionData.of(trainer).records
    encoder, decoder = module.network.configs
    train, val = records["train"], records["val"]
    parameters = sum(parameter.numel() for parameter in module.network.parameters())
    scores = {
        name.removeprefix("val/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    lines = [
        module.about.strip() or "# A captioner model",
        "",
        "## Facts",
        "",
        f"- Encoder {encoder.name}, {module.preprocessing.size} pixels, {module.network.encoder.regions} regions; "
        f"decoder {decoder.name}; {parameters / 1e6:.1f} million parameters.",
        f"- Trained on {len(train):,} images with {sum(len(record.captions) for record in train):,} captions; "
        f"{len(module.vocabulary):,} words.",
        f"- Epoch {trainer.current_epoch}, selected by CIDEr-D on {len(val):,} validation images.",
        "",
        f"Validation scores (x100), beam {module.decoding.beam_size}, against the raw references:",
        "",
        f"| {' | '.join(scores)} |",
        f"|{'---|' * len(scores)}",
        f"| {' | '.join(f'{100 * value:.1f}' for value in scores.values())} |",
    ]
    return "\n".join(lines) + "\n"
