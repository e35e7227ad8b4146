"""The HTML report: one file with scores, histograms, best and worst images, all captions.

The file is self-contained: style, script, data and thumbnails are embedded, and its content
security policy stops the browser from loading anything else or running other scripts. Captions,
references and names are untrusted text, and the template escapes them. Scores are shown times 100,
as they are published.
"""

import os
from pathlib import Path

from captioner._version import __version__
from captioner.evaluation import report_view as view
from captioner.evaluation.findings import Evaluation
from captioner.evaluation.wording import left_out
from captioner.templates import inlined, render

_HEADINGS = {
    "scores": "Scores",
    "comparison": "Comparison",
    "health": "Health",
    "distribution": "Distribution",
    "groups": "Groups",
    "best": "Best images",
    "worst": "Worst images",
    "images": "All images",
}


def write_page(path: str | os.PathLike[str], evaluation: Evaluation, *, shown: int = 12) -> None:
    """Write an evaluation as one self-contained HTML file.

    Args:
        path: The file; an existing one is replaced.
        evaluation: The evaluation to show.
        shown: The largest number of best and of worst images to show, with thumbnails if the image
            files are known and readable.

    Raises:
        OSError: The file cannot be written.
    """
    worst, best = view.worst_and_best(evaluation, shown)
    parts = {
        "scores": view.scores(evaluation),
        "comparison": view.differences(evaluation, evaluation.comparison),
        "health": view.health(evaluation),
        "groups": view.groups(evaluation.groups),
        "best": [view.card(evaluation, index) for index in best],
        "worst": [view.card(evaluation, index) for index in worst],
    }
    page = render(
        "captioner.evaluation",
        "report.html",
        title=evaluation.title,
        scored=view.summary(evaluation),
        left_out=" ".join(left_out(evaluation)),
        facts=view.facts(evaluation),
        sections={name: heading for name, heading in _HEADINGS.items() if parts.get(name, True)},
        **parts,
        most_frequent=evaluation.most_frequent,
        ranking=view.ranking(evaluation),
        lengths=view.lengths(evaluation),
        data=view.table(evaluation),
        **inlined(Path(__file__).with_name("report")),
        version=__version__,
    )
    # JSON can contain lone surrogates, which UTF-8 cannot encode.
    Path(path).write_text(page, encoding="utf-8", errors="replace", newline="\n")
