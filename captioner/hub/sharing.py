"""Upload a checkpoint folder to the hub, with a model card in the hub's format."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from captioner._version import __version__
from captioner.checkpoint import CARD, FILES, read_checkpoint
from captioner.errors import CheckpointError, ConfigError
from captioner.hub.download import hub_library

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_METRICS = {
    "BLEU": "bleu",
    "ROUGE": "rouge",
    "CIDEr": "cider",
    "METEOR": "meteor",
    "SPICE": "spice",
}
_TASK = "image-to-text"


@dataclass(frozen=True)
class Pushed:
    """The result of an upload.

    Attributes:
        url: The model's page.
        commit: The new commit.
    """

    url: str
    commit: str


def push(
    folder: str | os.PathLike[str],
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    language: str = "en",
) -> Pushed:
    """Upload a checkpoint folder to the hub in one commit; create the repository if needed.

    The card gets the metadata that the hub shows: task, licence, scores. Metadata that the card
    already has takes precedence. Other files in the folder are not uploaded.

    Args:
        folder: The checkpoint folder.
        name: The model's name on the hub: owner/name.
        private: Whether a new repository is private.
        revision: The branch, created if needed; None for the main one.
        licence: The hub's name for the licence, such as "mit".
        language: The language of its captions.

    Raises:
        CheckpointError: The folder is not a checkpoint, its card cannot be read, or the hub rejects
            the upload.
        ConfigError: The name is invalid.
        MissingExtraError: huggingface_hub is not installed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name} is not a valid model name; expected owner/name.")
    hub = hub_library()
    from huggingface_hub.errors import HFValidationError

    checkpoint = read_checkpoint(folder)
    card_file = checkpoint.folder / CARD
    try:
        text = card_file.read_text(encoding="utf-8") if card_file.is_file() else f"# {name}\n"
        card = card_with_metadata(text, name.partition("/")[2], licence=licence, language=language)
    except ValueError as error:  # UTF-8 errors are ValueErrors
        raise CheckpointError(
            f"{card_file} cannot be uploaded: {error}. Expected Markdown in UTF-8, whose metadata,"
            " if it has any, are YAML between two lines ---."
        ) from error
    operations = [hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode())]
    for each in FILES:
        path = checkpoint.folder / each
        if each != CARD and path.is_file():
            operations.append(hub.CommitOperationAdd(each, str(path.resolve())))
    api = hub.HfApi(library_name="captioner", library_version=__version__)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.create_commit(
            name, operations, commit_message="Upload a captioner model", revision=revision
        )
    except HFValidationError as error:
        raise ConfigError(f"{name} is not a valid model name: {error}") from error
    except Exception as error:  # errors of its HTTP library pass through
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{name} cannot be uploaded ({first}). If you are not logged in: hf auth login"
        ) from error
    return Pushed(f"{api.endpoint}/{name}", commit.oid)


def card_with_metadata(
    text: str, name: str, *, licence: str | None = None, language: str = "en"
) -> str:
    """Add the metadata that the hub reads to a model card.

    Args:
        text: The card; metadata that it already has takes precedence.
        name: The model's name.
        licence: The hub's name for the licence; left out if None.
        language: The language of its captions.

    Raises:
        ValueError: The card's metadata are not a YAML mapping.
    """
    hub = hub_library()
    import yaml  # huggingface_hub requires it

    given, body = {}, text
    if text.startswith("---\n"):
        try:
            card = hub.ModelCard(text, ignore_metadata_errors=True)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
        body = card.text
        given = {key: value for key, value in card.data.to_dict().items() if value is not None}
    data = hub.ModelCardData(
        language=language,
        license=licence,
        library_name="captioner",
        pipeline_tag=_TASK,
        tags=["image-captioning", "onnx"],
        model_name=name,
        eval_results=_results(body),
        ignore_metadata_errors=True,
    )
    merged = hub.ModelCardData(ignore_metadata_errors=True, **{**data.to_dict(), **given})
    return f"---\n{merged.to_yaml()}\n---\n\n{body.lstrip()}"


def _results(card: str) -> "list[Any] | None":
    """Return the scores in a card's tables as the hub's evaluation results."""
    hub = hub_library()
    results = [
        hub.EvalResult(
            task_type=_TASK,
            dataset_type=re.sub(r"\W+", "-", dataset).strip("-").lower() or "validation",
            dataset_name=dataset,
            metric_type=_METRICS[re.split(r"[-\d]", metric)[0]],
            metric_name=metric,
            metric_value=value,
        )
        for dataset, scores in scores_in(card)
        for metric, value in scores.items()
    ]
    return results or None


def scores_in(card: str) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the rows of a card's score tables.

    Args:
        card: Markdown, as written by training.

    Yields:
        The data that was scored ("validation" if the table doesn't say) and the scores by metric.
    """
    headings: list[str] = []
    for line in card.splitlines():
        if not line.lstrip().startswith("|"):
            headings = []
            continue
        cells = [cell.strip() for cell in line.strip().removesuffix("|")[1:].split("|")]
        if not headings:
            headings = cells
        else:
            row = dict(zip(headings, cells, strict=False))
            scores = {
                metric: float(value)
                for metric, value in row.items()
                if re.split(r"[-\d]", metric)[0] in _METRICS and re.fullmatch(r"\d+(\.\d+)?", value)
            }
            named = headings[0] not in scores
            if scores:
                yield (cells[0] if named else "validation"), scores
