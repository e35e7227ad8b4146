"""A page to look at: one HTML file with scores, histograms, best and worst images, and every caption.

The file is complete in itself: style, script, data and thumbnails stand in it, and its content security policy forbids
a browser to load anything else or to run any other script. Captions, references and names are untrusted text: all of it
goes through `html.escape`, or through JSON in which no "<" is left. Scores are shown times 100, as they are published.
"""

import base64
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from captioner._version import __version__
from captioner.errors import ImageError
from captioner.evaluation.charts import difference_axis, difference_plot, histogram, score_axis, score_plot, ticks
from captioner.evaluation.findings import Difference, Evaluation
from captioner.evaluation.health import FIGURES, figure_text
from captioner.evaluation.wording import left_out, notes, points
from captioner.images import open_image
from captioner.tokenizer import tokenize

logger = logging.getLogger(__name__)

THUMBNAIL = (400, 300)  # pixels at most; shown at about 260, which leaves some for dense screens
LONGEST = 40  # words: longer captions share the last bar of the histogram


class _Section(NamedTuple):
    """A part of the page: its anchor, its heading and its HTML."""

    name: str
    heading: str
    body: str


def write_page(path: str | os.PathLike[str], evaluation: Evaluation, *, shown: int = 12) -> None:
    """Write an evaluation as one HTML file that needs nothing else, neither files nor a network.

    Args:
        path: The file; one that is there is replaced.
        evaluation: What to show.
        shown: How many of the best and of the worst images to show at most, with thumbnails where the files of the
            images are known and readable.

    Raises:
        OSError: The file cannot be written.
    """
    worst, best = _worst_and_best(evaluation, shown)
    sections = [
        _Section("scores", "Scores", _scores(evaluation)),
        _Section("comparison", "Comparison", _comparison(evaluation)),
        _Section("health", "Health", _health(evaluation)),
        _Section("distribution", "Distribution", _histograms(evaluation)),
        _Section("groups", "Groups", _groups(evaluation)),
        _Section("best", "Best images", _cards(evaluation, best)),
        _Section("worst", "Worst images", _cards(evaluation, worst)),
        _Section("images", "All images", _table_of_images(list(evaluation.per_image))),
    ]
    sections = [section for section in sections if section.body]
    style, script = _resource("report.css"), _resource("report.js")
    page = Template(_resource("report.html")).substitute(
        title=escape(evaluation.title),
        summary=_summary(evaluation),
        navigation="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        sections="\n".join(f'<section id="{name}"><h2>{head}</h2>\n{body}</section>' for name, head, body in sections),
        data=_data(evaluation),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        version=__version__,
    )
    # JSON can hold half of a surrogate pair, and UTF-8 cannot.
    Path(path).write_text(page, encoding="utf-8", errors="replace", newline="\n")


def _resource(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(evaluation: Evaluation) -> str:
    """What the table of images is made of, as JSON in pure ASCII that cannot end the element it stands in."""
    names = list(evaluation.per_image)
    columns = [100 * evaluation.per_image[name] for name in names]
    scores = np.reshape(columns, (len(names), len(evaluation.image_ids))).T.round(2).astype(object)  # (N, metrics)
    scores[scores != scores] = None  # nan, which JSON has no word for
    texts = zip(evaluation.image_ids, evaluation.captions, evaluation.references, strict=True)
    rows = [
        [str(image_id), caption, references, row]
        for (image_id, caption, references), row in zip(texts, scores.tolist(), strict=True)
    ]
    page = {"columns": ["Image", "Caption", *names], "rows": rows}
    return json.dumps(page, separators=(",", ":")).replace("<", "\\u003c")


def _summary(evaluation: Evaluation) -> str:
    images, references = len(evaluation.image_ids), sum(map(len, evaluation.references))
    text = f"<p>{_count(images, 'image')}, scored against {_count(references, 'reference caption')}.</p>"
    if missing := left_out(evaluation):
        text += f'<p class="warning">{escape(" ".join(missing))} These are not the scores of the whole set.</p>'
    facts = "".join(f"<li>{escape(name)}: {escape(_fact(value))}</li>" for name, value in evaluation.facts.items())
    return text + (f"<details><summary>How it was made</summary><ul>{facts}</ul></details>" if facts else "")


def _fact(value: object) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)


def _scores(evaluation: Evaluation) -> str:
    if not evaluation.scores:
        return ""
    intervals = evaluation.intervals
    reached = [*evaluation.scores.values(), *(high for _, high in intervals.values())]
    marks = ticks(0, 100 * max([value for value in reached if not math.isnan(value)], default=0))
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td class="number strong">{points(value)}</td>'
        f'<td class="number quiet">{_interval(intervals[name]) if name in intervals else ""}</td>'
        f'<td class="plot">{"" if math.isnan(value) else score_plot(value, intervals.get(name), marks)}</td></tr>'
        for name, value in evaluation.scores.items()
    ]
    foot = f'<tr><td></td><td></td><td></td><td class="plot">{score_axis(marks)}</td></tr>'
    table = _table(["Metric", "Score", "95 % interval" if intervals else "", ""], rows, foot)
    note = "Times 100, as published." + (" Intervals: bootstrap over images." if intervals else "")
    return table + "".join(f'<p class="note">{escape(text)}</p>' for text in [note, *notes(evaluation)])


def _comparison(evaluation: Evaluation) -> str:
    comparison, scores = evaluation.comparison, evaluation.scores
    if comparison is None or not comparison.differences:
        return ""
    differences = comparison.differences
    known = [entry for entry in differences.values() if not math.isnan(entry.difference)]
    reach = max([0.001, *(abs(bound) for entry in known for bound in (entry.difference, *entry.interval))])
    marks = ticks(-100 * reach, 100 * reach)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="number wide">{points(entry.other)}</td>'
        f'<td class="number wide">{points(scores[name])}</td>'
        f'<td class="number strong">{_signed(entry.difference)}</td>'
        f'<td class="number quiet">{_interval(entry.interval)}</td><td class="number">{_p_value(entry.p_value)}</td>'
        f'<td class="plot wide">{_difference_plot(entry, marks)}</td></tr>'
        for name, entry in differences.items()
    ]
    foot = f'<tr class="wide"><td colspan="6"></td><td class="plot">{difference_axis(marks)}</td></tr>'
    table = _table(["Metric", "Other", "This", "Difference", "95 % interval", "p", ""], rows, foot)
    ours, theirs = (f'<bdi class="strong">{escape(name)}</bdi>' for name in (evaluation.title, comparison.name))
    note = "Times 100. Paired bootstrap over the same images; differences above 0 are in favour of the first."
    return f'<p>{ours} against {theirs}</p>{table}<p class="note">{note}</p>'


def _difference_plot(entry: Difference, marks: Sequence[float]) -> str:
    return "" if math.isnan(entry.difference) else difference_plot(entry.difference, entry.interval, marks)


def _health(evaluation: Evaluation) -> str:
    if not evaluation.health:
        return ""
    figures = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(figure_text(name, value))}</dd>"
        f'<dd class="note">{escape(FIGURES.get(name, ""))}</dd></div>'
        for name, value in evaluation.health.items()
    )
    said = evaluation.most_frequent
    note = f'<p class="note">The most frequent caption: <q dir="auto">{escape(said)}</q></p>' if said else ""
    return f"<dl>{''.join(figures)}</dl>{note}"


def _histograms(evaluation: Evaluation) -> str:
    lengths = np.array([len(tokenize(caption)) for caption in evaluation.captions])  # (N,)
    references = np.array([len(tokenize(text)) for texts in evaluation.references for text in texts])
    figures = [
        (
            '<b>Words of a caption</b> <span class="quiet"><span class="key"></span> captions, mean '
            f'{lengths.mean():.1f} <span class="key other"></span> references, mean {references.mean():.1f}</span>',
            histogram(lengths, "How many captions have how many words", others=references, last=LONGEST),
        ),
    ]
    name = _ranked_by(evaluation)
    if name:
        scores = 100 * evaluation.per_image[name]  # (N,)
        scores = scores[~np.isnan(scores)]
        summary = f"mean {scores.mean():.1f}, median {np.median(scores):.1f}"
        caption = f'<b>{escape(name)} of an image</b> <span class="quiet">{summary}</span>'
        figures.insert(0, (caption, histogram(scores, escape(f"How many images have which {name}"))))
    drawn = (f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>" for caption, drawing in figures)
    return f'<div class="histograms">{"".join(drawn)}</div>'


def _groups(evaluation: Evaluation) -> str:
    if not evaluation.groups:
        return ""
    names = list(evaluation.groups[0].scores)
    rows = [
        f'<tr><th scope="row">{escape(group.name)}</th><td class="number quiet">{group.images:,}</td>'
        + "".join(f'<td class="number">{points(group.scores[name])}</td>' for name in names)
        + "</tr>"
        for group in evaluation.groups
    ]
    table = _table(["Group", "Images", *names], rows)
    return f'<div class="scroll" role="region" aria-label="Scores by group" tabindex="0">{table}</div>'


def _ranked_by(evaluation: Evaluation) -> str:
    """The metric that orders images: CIDEr-D, or what there is, or ""; BLEU says little of a single caption."""
    names = [name for name, values in evaluation.per_image.items() if not np.isnan(values).all()]
    return "CIDEr-D" if "CIDEr-D" in names else names[-1] if names else ""


def _worst_and_best(evaluation: Evaluation, shown: int) -> tuple[list[int], list[int]]:
    """Which images to show: no image twice, the worst and the best first."""
    first = _ranked_by(evaluation)
    if not first:
        return [], []
    others = [values for name, values in evaluation.per_image.items() if name != first]
    order = np.lexsort([*others, evaluation.per_image[first]])  # ties are common: a CIDEr-D of 0 is
    order = order[~np.isnan(evaluation.per_image[first][order])].tolist()
    half = len(order) // 2
    return order[:half][:shown], order[half:][::-1][:shown]


def _cards(evaluation: Evaluation, indices: Sequence[int]) -> str:
    return f'<div class="cards">{"".join(_card(evaluation, index) for index in indices)}</div>' if indices else ""


def _card(evaluation: Evaluation, index: int) -> str:
    path, name = evaluation.paths[index], f"Image {evaluation.image_ids[index]}"
    thumbnail = None if path is None else _thumbnail(path, name)
    scores = [(metric, values[index]) for metric, values in evaluation.per_image.items()]
    first = _ranked_by(evaluation)
    scores.sort(key=lambda pair: pair[0] != first)
    scores = [(metric, value) for metric, value in scores if metric == first or not metric.startswith("BLEU")]
    figures = ", ".join(f"{escape(metric)} {points(value)}" for metric, value in scores)
    file = f" \u00b7 {escape(path.name)}" if path is not None else ""
    references = "".join(f'<li dir="auto">{escape(text)}</li>' for text in evaluation.references[index])
    return (
        f'<article class="card">{thumbnail or ""}'
        f'<p class="caption" dir="auto">{escape(evaluation.captions[index].strip())}</p>'
        f'<p class="figures">{figures}<br><bdi>{escape(name)}{file}</bdi></p><ul>{references}</ul></article>'
    )


def _thumbnail(path: Path, name: str) -> str | None:
    """An image element with the picture in it; None if the file is not readable."""
    try:
        image = open_image(path, min_size=min(THUMBNAIL))
    except ImageError as error:
        logger.info("%s; the page goes without it", error)
        return None
    image.thumbnail(THUMBNAIL)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=75)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(name)}" {size}>'


def _table_of_images(names: Iterable[str]) -> str:
    """The table's frame; report.js fills it, a screenful at a time."""
    header = "".join(
        f'<th scope="col" aria-sort="none"{number}><button type="button">{escape(name)}</button></th>'
        for name, number in [("Image", ""), ("Caption", ""), *((name, ' class="number"') for name in names)]
    )
    return (
        '<p class="scriptless">This table needs JavaScript.</p>'
        '<div hidden><div class="controls">'
        '<label><span class="hidden-label">Filter</span>'
        '<input type="search" placeholder="Filter by words or by image" autocomplete="off">'
        '</label><p role="status"></p><div class="pager"><button type="button">Previous</button>'
        '<button type="button">Next</button></div></div>'
        f'<table class="images"><thead><tr>{header}</tr></thead><tbody></tbody></table></div>'
    )


def _table(header: Sequence[str], rows: Iterable[str], foot: str = "") -> str:
    classes = ["", *["number"] * (len(header) - 1)]
    cells = "".join(
        f'<th scope="col" class="{kind}{" wide" if text in ("Other", "This") else ""}">{escape(text)}</th>'
        for text, kind in zip(header, classes, strict=True)
    )
    end = f"<tfoot>{foot}</tfoot>" if foot else ""
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>{end}</table>"


def _signed(value: float) -> str:
    return points(value, "+").replace("-", "\u2212")


def _interval(bounds: tuple[float, float]) -> str:
    low, high = (points(bound).replace("-", "\u2212") for bound in bounds)
    return f"[{low}, {high}]" if not math.isnan(bounds[0]) else "\u2013"


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "\u2013"
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
