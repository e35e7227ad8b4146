"""`captioner evaluate`: caption annotated images and score the captions, or a results file."""

from argparse import Namespace
from pathlib import Path

from captioner.commands.annotated import add_annotated
from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import Add, file_path
from captioner.commands.terminal import report, show_warnings, track
from captioner.errors import ConfigError
from captioner.evaluation.metrics import DEFAULT_METRICS, METRICS


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "evaluate",
        usage="captioner evaluate --annotations FILE [OPTIONS]",
        help="Caption annotated images and score the captions.",
        description="Caption annotated images and score the captions, or score a results file.",
        epilog="""\
examples:
  captioner evaluate --annotations captions_val.json --images val/ --output scores/
  captioner evaluate --annotations captions_val.json --results results.json
  captioner evaluate --annotations captions_val.json --results ours.json --compare theirs.json
  captioner evaluate --annotations dataset_coco.json --images coco/ --split test""",
    )
    parser.set_defaults(run=run)
    add_annotated(parser, "scored")
    parser.add_argument(
        "--results",
        type=file_path,
        metavar="FILE",
        help=(
            "Score this file instead: COCO results, or the TSV, CSV, JSON lines or Parquet of"
            " captioner caption."
        ),
    )
    parser.add_argument(
        "--compare",
        type=file_path,
        metavar="FILE",
        help="Test the difference to this file (paired bootstrap).",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="Skip images without a caption instead of failing.",
    )
    parser.add_argument(
        "--metrics",
        default=",".join(DEFAULT_METRICS),
        metavar="NAMES",
        help=(
            f"Of {', '.join(METRICS)}; meteor and spice require Java, chair requires --instances."
            " [default: %(default)s]"
        ),
    )
    parser.add_argument(
        "--training-captions",
        type=file_path,
        metavar="FILE",
        help=(
            "Annotations of the training data, to count novel captions. [default: the train split"
            " of --annotations, if it has splits]"
        ),
    )
    parser.add_argument(
        "--instances",
        type=file_path,
        metavar="FILE",
        help="COCO instances JSON, for scores by object category and for chair.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="Folder for report.html, scores.json, per_image.csv and results.json.",
    )
    parser.add_argument(
        "--card",
        type=file_path,
        metavar="FILE",
        help="Write the scores into this model card too: README.md of a checkpoint folder.",
    )
    add_model(parser)
    parser.set_defaults(
        backend=None, batch_size=None
    )  # None unless given, to check that it isn't combined with --results
    add_decoding(parser, without=["alternatives", "include"])


def run(options: Namespace) -> int:
    """Caption annotated images and score the captions, or score a results file."""
    from captioner.evaluation.callbacks import Callbacks
    from captioner.evaluation.captioning import Captioning
    from captioner.evaluation.card import check_card, write_card
    from captioner.evaluation.evaluate import Scoring, evaluate
    from captioner.evaluation.text_report import as_text

    show_warnings()
    failed: list[str] = []

    def fail(message: str) -> None:
        failed.append(message)
        report(message)

    running = given(options, "model", "backend", "device", "batch_size", *DECODING)
    if options.results is not None and running:
        name = next(iter(running)).replace("_", "-")
        raise ConfigError(
            f"--results cannot be combined with --{name}: a results file is scored without running"
            " a model."
        )
    how = {
        name: running.pop(name)
        for name in ("model", "backend", "device", "batch_size")
        if name in running
    }
    if options.card is not None:
        check_card(options.card)
    evaluation = evaluate(
        options.annotations,
        options.images,
        split=options.split,
        captioning=Captioning(**how, decoding=running) if options.results is None else None,
        results=options.results,
        output=options.output,
        scoring=Scoring(
            metrics=[name.strip() for name in options.metrics.split(",")],
            against=options.compare,
            allow_missing=options.allow_missing,
            training_captions=options.training_captions,
            instances=options.instances,
        ),
        callbacks=Callbacks(track, fail),
    )
    print(as_text(evaluation))  # before the card: if it cannot be written, the scores aren't lost
    if options.card is not None:
        write_card(options.card, evaluation)
    return 1 if failed else 0
