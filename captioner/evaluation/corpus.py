"""A corpus to score: references and captions by image id, and checks that they match."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from captioner.errors import DataError
from captioner.tokenizer import tokenize

Id = TypeVar("Id", bound=Hashable)
Tokens: TypeAlias = Sequence[str]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Captions of N images and their references: the input of every metric.

    All mappings are keyed by image id. The order of `references` is the order of every array of
    scores.

    Attributes:
        references: One or more raw reference captions of each image.
        captions: The raw caption to score of each image.
        paths: The file of each image; None, or no entry, for an image without a file.
        objects: The object categories in each image, from an instances file; images without objects
            may be missing. None if unknown.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
    """

    references: Mapping[Any, Sequence[str]]
    captions: Mapping[Any, str]
    paths: Mapping[Any, Path | None] = field(default_factory=dict)
    objects: Mapping[Any, Collection[str]] | None = None

    def __post_init__(self) -> None:
        check(self.references, self.captions)

    @cached_property
    def reference_tokens(self) -> dict[Any, list[list[str]]]:
        """The references, tokenised like the official COCO scorer does; cached."""
        return {
            image_id: [tokenize(text) for text in texts]
            for image_id, texts in self.references.items()
        }

    @cached_property
    def caption_tokens(self) -> dict[Any, list[str]]:
        """The tokenised captions, in the order of `references`; cached."""
        return {image_id: tokenize(self.captions[image_id]) for image_id in self.references}

    def with_captions(self, captions: Mapping[Any, str]) -> "Corpus":
        """Return a corpus of another system's captions; the references' tokens are reused."""
        other = replace(self, captions=captions)
        vars(other)["reference_tokens"] = self.reference_tokens  # the cached_property's cache
        return other


def check(references: Mapping[Id, Sequence[object]], candidates: Mapping[Id, object]) -> None:
    """Check that captions can be scored against references.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
    """
    check_references(references)
    check_same_images(references, candidates)


def check_references(references: Mapping[Id, Sequence[object]]) -> None:
    """Check that every image has references.

    Raises:
        DataError: There are no images, or an image has no references.
    """
    if not references:
        raise DataError("no images to score; expected references of at least one image")
    for image_id, texts in references.items():
        if not texts:
            raise DataError(f"image {image_id!r} has no reference captions; expected at least one")


def check_same_images(references: Mapping[Id, object], candidates: Mapping[Id, object]) -> None:
    """Check that captions and references have the same image ids.

    Raises:
        DataError: They differ.
    """
    for image_id in candidates:
        if image_id not in references:
            raise DataError(
                f"image {image_id!r} has a caption but no references; score only images with"
                " references"
            )
    missing = [image_id for image_id in references if image_id not in candidates]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(references)} images have no caption, for example image"
            f" {missing[0]!r}; every image with references needs a caption"
        )
