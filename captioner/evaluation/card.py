"""An evaluation's scores in a model card, between marks; what else the card says stays."""

from pathlib import Path

from captioner.errors import ConfigError
from captioner.evaluation.findings import Evaluation
from captioner.evaluation.wording import points
from captioner.files import replacing

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


def check_card(path: Path) -> None:
    """Refuse a card that cannot be written to, before anything is captioned.

    Raises:
        ConfigError: It isn't there, is no UTF-8 text, or one of its marks is missing.
    """
    _split(path)


def write_card(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation into a model card, in place of an earlier one or at its end.

    The section has a table of the scores with their intervals and, where CHAIR was measured, the
    hallucination rate.

    Args:
        path: The card, in Markdown.
        evaluation: What was found.

    Raises:
        ConfigError: See `check_card`.
        OSError: The card cannot be written.
    """
    before, after = _split(path)
    with replacing(path) as new:
        new.write_text(f"{before}{BEGIN}\n\n{section(evaluation)}\n{END}{after}", encoding="utf-8")


def section(evaluation: Evaluation) -> str:
    """Describe an evaluation in Markdown."""
    scores, intervals = evaluation.scores, evaluation.intervals
    name = Path(str(evaluation.facts.get("annotations", "validation"))).name
    values = [points(value) for value in scores.values()]
    row = [f"{name}, {evaluation.n_images:,}", *values]
    rows = [["", *scores], ["---"] * (len(scores) + 1), row]
    if intervals:
        ends = [intervals.get(metric, (float("nan"),) * 2) for metric in scores]
        rows.append(["95 % interval", *(f"{points(low)} to {points(high)}" for low, high in ends)])
    lines = ["## Evaluation", "", "Scores x100 of `captioner evaluate`:", ""]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if {"CHAIR_i", "CHAIR_s"} <= scores.keys():
        lines += [
            "",
            f"Hallucination rate: {points(scores['CHAIR_i'])} % of the objects that captions name"
            f" are not in the images (CHAIR_i); {points(scores['CHAIR_s'])} % of the captions name"
            " such an object (CHAIR_s).",
        ]
    return "\n".join(lines) + "\n"


def _split(path: Path) -> tuple[str, str]:
    """Return what stands before and after the section."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); expected a model card, such as README.md in a"
            " checkpoint folder."
        ) from error
    if BEGIN not in text and END not in text:
        return f"{text.rstrip()}\n\n", "\n"
    before, _, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if BEGIN not in text or not ended:
        raise ConfigError(f"{path} has only one of the marks {BEGIN} and {END}; remove it.")
    return before, after
