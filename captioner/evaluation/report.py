"""Captions against raw references: scores, a table of them, and results files in COCO's format."""

import json
import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from captioner.errors import DataError
from captioner.evaluation.metrics import bleu, cider_d
from captioner.evaluation.tokenizer import tokenize

Id = TypeVar("Id", bound=Hashable)
ImageId = int | str


@dataclass(frozen=True)
class Scores:
    """How well captions agree with references; the official COCO scorer's numbers.

    Attributes:
        bleu: BLEU-1 to BLEU-4 of the corpus, 0 to 1.
        cider_d: CIDEr-D, 0 to 10; it depends on the set of images.
        images: How many images were scored.
    """

    bleu: tuple[float, float, float, float]
    cider_d: float
    images: int

    def to_dict(self) -> dict[str, float | int]:
        """The scores by their published names, for JSON."""
        named = {f"BLEU-{n}": value for n, value in enumerate(self.bleu, 1)}
        return {**named, "CIDEr-D": self.cider_d, "images": self.images}

    def as_table(self) -> str:
        """The scores as text: names above numbers, times 100 with one decimal, as they are published."""
        cells = {name: f"{100 * value:.1f}" for name, value in self.to_dict().items() if name != "images"}
        cells["images"] = str(self.images)
        widths = [max(len(name), len(value)) for name, value in cells.items()]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in (cells.keys(), cells.values())
        )
        return "\n".join(lines)


def score(references: Mapping[Id, Sequence[str]], captions: Mapping[Id, str]) -> Scores:
    """Scores captions against raw references; both are tokenised here.

    Args:
        references: One or more reference captions for each image, as people wrote them.
        captions: The caption to score for each image.

    Returns:
        The scores over all images.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
        MissingExtraError: nltk is not installed.
    """
    reference_tokens = {image_id: [tokenize(text) for text in texts] for image_id, texts in references.items()}
    candidate_tokens = {image_id: tokenize(text) for image_id, text in captions.items()}
    corpus_cider_d, _ = cider_d(reference_tokens, candidate_tokens)
    return Scores(bleu(reference_tokens, candidate_tokens), corpus_cider_d, len(references))


def save_scores(path: str | os.PathLike[str], scores: Scores) -> None:
    """Writes scores as JSON, fractions in full precision under their published names."""
    Path(path).write_text(json.dumps(scores.to_dict(), indent=2) + "\n", encoding="utf-8")


def save_results(path: str | os.PathLike[str], captions: Mapping[int, str] | Mapping[str, str]) -> None:
    """Writes captions in COCO results format: `[{"image_id": ..., "caption": ...}, ...]`."""
    lines = (
        json.dumps({"image_id": image_id, "caption": caption}, ensure_ascii=False)
        for image_id, caption in captions.items()
    )
    Path(path).write_text("[" + ",\n".join(lines) + "]\n", encoding="utf-8")


def load_results(path: str | os.PathLike[str], image_ids: Collection[ImageId] | None = None) -> dict[ImageId, str]:
    """Reads captions in COCO results format.

    Args:
        path: A JSON file with a list of `{"image_id", "caption"}`; further keys are passed over.
        image_ids: If given, the images that the results must be of: all of them and no others.

    Returns:
        The captions by image id, in the order of the file.

    Raises:
        DataError: The file cannot be read, is not in this format, repeats an image, or is not of `image_ids`.
    """
    path = Path(path)
    wanted = None if image_ids is None else set(image_ids)
    captions: dict[ImageId, str] = {}
    for number, entry in enumerate(_read_list(path)):
        where = f"{path}, entry {number}"
        image_id, caption = _image_and_caption(where, entry)
        if image_id in captions:
            raise DataError(f"{where}: a second caption of image {image_id!r}; expected one for each image")
        if wanted is not None and image_id not in wanted:
            raise DataError(f"{where}: image {image_id!r} is not in the annotations{_other_kind(image_id, wanted)}")
        captions[image_id] = caption
    missing = [image_id for image_id in image_ids or () if image_id not in captions]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(image_ids or ())} annotated images have no caption, "
            f"image {missing[0]!r} for one; every one of them needs one"
        )
    return captions


def _read_list(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(entries, list):
        raise DataError(f'{path}: not COCO results; expected a list of {{"image_id": ..., "caption": ...}}')
    return entries


def _image_and_caption(where: str, entry: object) -> tuple[ImageId, str]:
    if not isinstance(entry, dict) or not {"image_id", "caption"} <= entry.keys():
        raise DataError(f'{where}: expected {{"image_id": ..., "caption": ...}}')
    image_id, caption = entry["image_id"], entry["caption"]
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        raise DataError(f'{where}: "image_id" must be a whole number or text, not {image_id!r}')
    if not isinstance(caption, str):
        raise DataError(f"{where}: the caption of image {image_id!r} must be text, not {caption!r}")
    return image_id, caption


def _other_kind(image_id: ImageId, image_ids: Collection[ImageId]) -> str:
    """A hint where 42 was written as "42" or the other way round."""
    if any(str(other) == str(image_id) for other in image_ids):
        return f" (but {'text' if isinstance(image_id, int) else 'a number'} with the same digits is)"
    return ""
