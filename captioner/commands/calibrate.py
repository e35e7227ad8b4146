"""`captioner calibrate`: calibrate caption confidence and tag probabilities on photos."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.annotated import add_annotated
from captioner.commands.model import add_model, given
from captioner.commands.parser import Add
from captioner.commands.terminal import show_warnings, track
from captioner.errors import ConfigError

if TYPE_CHECKING:
    from captioner.confidence.fitting import Quality
    from captioner.evaluation.calibration import Calibrated


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "calibrate",
        usage="captioner calibrate --model DIR --annotations FILE [OPTIONS]",
        help="Calibrate a model's caption confidence and tag probabilities.",
        description="""\
Caption annotated photos that the model was not trained on, and calibrate on them the
confidence of captions (the probability that a caption is good) and the probabilities of
tags. The calibration is written to DIR/config.json; no other file changes. The reference
captions should be by people.""",
        epilog="""\
examples:
  captioner calibrate --model runs/tiny/best --annotations captions_val.json --images val/
  captioner calibrate --model mine/ --annotations val.csv --style long --only confidence""",
    )
    parser.set_defaults(run=run)
    add_annotated(parser, "taken")
    parser.add_argument(
        "--style",
        metavar="NAME",
        help="Calibrate the confidence of captions in this style. [default: the model's]",
    )
    parser.add_argument(
        "--only",
        choices=("confidence", "tags"),
        metavar="PART",
        help="Calibrate only confidence or only tags.",
    )
    parser.add_argument(
        "--good",
        type=float,
        metavar="X",
        help="The lowest CIDEr-D of a good caption. [default: 0.5]",
    )
    add_model(parser, which="Checkpoint folder; its config.json is updated. [required]")


def run(options: Namespace) -> int:
    """Calibrate a model."""
    from captioner.checkpoint import CONFIG, read_checkpoint
    from captioner.evaluation.calibration import calibrate

    show_warnings()
    models: list[Path | str] = options.model or []
    if len(models) != 1:
        raise ConfigError(
            f"{len(models)} models given; expected one --model, whose config.json is updated."
        )
    names = ("split", "style", "only", "good", "backend", "device", "batch_size")
    found = calibrate(
        models[0], options.annotations, options.images, track=track, **given(options, *names)
    )
    print("\n".join(_lines(found)))
    print(f"written: {read_checkpoint(models[0]).folder / CONFIG}")
    return 0


def _lines(found: "Calibrated") -> list[str]:
    """Format the report; all probabilities are cross-validated."""
    from captioner.confidence.fitting import quality

    lines = [f"{found.photos:,} photos; cross-validated:"]
    if found.confidence is not None:
        calibration = found.confidence.calibration
        style = f", style {found.confidence.style}" if found.confidence.style else ""
        lines += [
            f"confidence{style}: good is a CIDEr-D of at least {calibration.good:g}",
            *_quality(quality(found.confidence.probabilities, found.confidence.good)),
        ]
    if found.tags is not None:
        lines += [
            f"tags: temperature {found.tags.config.temperature:.3f}",
            *_quality(quality(found.tags.probabilities, found.tags.right)),
        ]
    return lines


def _quality(found: "Quality") -> list[str]:
    return [
        f"  base rate {found.base_rate:.3f}",
        f"  log loss {found.log_loss:.3f}, of the base rate {found.base_log_loss:.3f}",
        f"  AUC {found.auc:.3f}",
        f"  expected calibration error {found.reliability.error:.3f}, by chance"
        f" {found.chance_error:.3f}",
    ]
