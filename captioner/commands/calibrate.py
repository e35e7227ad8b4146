"""`captioner calibrate`: annotated photos -> confidence of captions, temperature of tags."""

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
    """Say what the command takes."""
    parser = add(
        "calibrate",
        usage="captioner calibrate --model DIR --annotations FILE [OPTIONS]",
        help="Fit how sure a model may be of its captions and tags.",
        description="""\
Caption annotated photos that the model was not trained on, and write into DIR/config.json
how likely its captions are good (their confidence), and a temperature that makes the
probabilities of its tags frequencies. The photos' captions should be by people. All other
files stay as they are.""",
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
        help="Fit the confidence of captions in this style. [default: the model's]",
    )
    parser.add_argument(
        "--only",
        choices=("confidence", "tags"),
        metavar="PART",
        help="confidence or tags: leave the other as it is.",
    )
    parser.add_argument(
        "--good",
        type=float,
        metavar="X",
        help="A caption is good from this CIDEr-D of its own on. [default: 0.5]",
    )
    add_model(parser, which="Checkpoint folder, whose config.json is written. [required]")


def run(options: Namespace) -> int:
    """Calibrate a model."""
    from captioner.evaluation.calibration import calibrate

    show_warnings()
    models: list[Path] = options.model or []
    if len(models) != 1:
        raise ConfigError(
            f"{len(models)} models are given; expected one --model, whose config.json is written."
        )
    names = ("split", "style", "only", "good", "backend", "device", "batch_size")
    found = calibrate(
        models[0], options.annotations, options.images, track=track, **given(options, *names)
    )
    print("\n".join(_lines(found)))
    print(f"written: {models[0] / 'config.json'}")
    return 0


def _lines(found: "Calibrated") -> list[str]:
    """The report: probabilities of each photo are those of a fit to others."""
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
