"""`captioner events`: recognise events in clips, or score a model that does."""

import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.caption import json_line
from captioner.commands.model import add_model
from captioner.commands.parser import Add, file_path
from captioner.commands.terminal import print_odd_characters, report, show_warnings, track
from captioner.errors import ConfigError, MissingExtraError, VideoError
from captioner.events.config import NO_EVENTS, THRESHOLD, check_threshold
from captioner.library.tables import escape_row
from captioner.video.subtitles import time_span

if TYPE_CHECKING:
    from captioner.inference import Captioner
    from captioner.video.events import Scan


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "events",
        usage="captioner events (CLIP... | --annotations FILE) --model DIR [OPTIONS]",
        operands=("CLIP", 0, math.inf),
        help="Recognise events in clips, and when they happen.",
        description="""\
Recognise events in each CLIP with a model that was trained on labelled events
(data.events). Print a line for each event: clip, time, label and probability.

With --annotations, score the model on the events of a table with the columns clip, start,
end, label instead, and print the average precision of each label.""",
        epilog="""\
examples:
  captioner events clip.mp4 --model runs/tiny_events/best
  captioner events clip.mp4 --model runs/tiny_events/best --threshold 0.8 --json
  captioner events --annotations data/clips/val_events.csv --model runs/tiny_events/best""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help=f"Minimum probability of an event, above 0, at most 1. [default: {THRESHOLD:g}]",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object per clip.")
    parser.add_argument(
        "--annotations",
        type=file_path,
        metavar="FILE",
        help="Score the model on this table; requires the extra train.",
    )
    parser.add_argument(
        "--clips",
        type=Path,
        metavar="DIR",
        help="Folder that the paths in FILE are relative to. [default: that of FILE]",
    )
    add_model(parser, batches=False, which="Checkpoint folder, or hf://owner/name. [required]")


def run(options: Namespace) -> int:
    """Print the events of clips, or the scores of a model."""
    from captioner.inference import Captioner

    show_warnings()
    print_odd_characters(names=True)
    threshold = THRESHOLD if options.threshold is None else options.threshold
    check_threshold(threshold)
    if bool(options.operands) == (options.annotations is not None):
        raise ConfigError("Give either clips, or a table with --annotations.")
    if options.annotations is None and options.clips is not None:
        raise ConfigError("--clips is the folder of a table's clips; give it with --annotations.")
    if options.annotations is not None and options.threshold is not None:
        raise ConfigError("--threshold applies to CLIPs; average precision has none.")
    if len(options.model or ()) > 1:
        raise ConfigError("Several models are given; expected one --model.")
    captioner = Captioner.from_pretrained(
        options.model, backend=options.backend, device=options.device
    )
    if captioner.events is None:
        raise ConfigError(NO_EVENTS)
    if options.annotations is not None:
        return _score(captioner, options)
    from captioner.video.events import scan

    failed = False
    for clip in options.operands:
        try:
            _print(clip, scan(captioner, clip), threshold, options)
        except VideoError as error:
            report(str(error))
            failed = True
    return int(failed)


def _print(clip: str, seen: "Scan", threshold: float, options: Namespace) -> None:
    events = seen.events(threshold)
    if options.json:
        found = [event.to_dict() for event in events]
        facts = {"path": clip, "duration": round(seen.duration, 3), "events": found}
        print(json_line(facts, sys.stdout.encoding), end="", flush=True)
        return
    for event in events:
        when = time_span(event.start, event.end)
        print(escape_row(clip), when, event.label, f"{event.probability:.2f}", sep="\t", flush=True)


def _score(captioner: "Captioner", options: Namespace) -> int:
    try:
        from captioner.training.average_precision import mean_average_precision, score_events
    except ImportError as error:
        raise MissingExtraError("Scoring events", "train") from error
    precisions = score_events(captioner, options.annotations, options.clips, track=track)
    mean = mean_average_precision(precisions)
    if options.json:
        scores = {"average_precision": precisions, "mean": mean}
        print(json_line(scores, sys.stdout.encoding), end="")
        return 0
    width = max(map(len, (*precisions, "mean")))
    for label, value in {**precisions, "mean": mean}.items():
        print(f"{label:{width}}  {'-' if value is None else f'{100 * value:.1f}':>5}")
    return 0
