"""What is scored: references and captions by image id, and whether they belong together."""

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
    """Captions of N images and what they are scored against: what every metric is given.

    All mappings go by image id. Their order, and that of every array of scores, is the order of
    `references`.

    Attributes:
        references: One or more reference captions of each image, as people wrote them.
        captions: The caption of each image that is scored, as it was written.
        paths: The file of each image; an image without one is missing, or None.
        objects: The categories of what is in each image, as an instances file tells them; an image
            without objects may be missing. None where nothing is known.

    Raises:
        DataError: Captions and references don't have the same images, there are none, or one has no
            references.
    """

    references: Mapping[Any, Sequence[str]]
    captions: Mapping[Any, str]
    paths: Mapping[Any, Path | None] = field(default_factory=dict)
    objects: Mapping[Any, Collection[str]] | None = None

    def __post_init__(self) -> None:
        check(self.references, self.captions)

    @cached_property
    def reference_tokens(self) -> dict[Any, list[list[str]]]:
        """The references as the official COCO scorer splits them into words; split once."""
        return {
            image_id: [tokenize(text) for text in texts]
            for image_id, texts in self.references.items()
        }

    @cached_property
    def caption_tokens(self) -> dict[Any, list[str]]:
        """The captions, split likewise, in the order of `references`."""
        return {image_id: tokenize(self.captions[image_id]) for image_id in self.references}

    def with_captions(self, captions: Mapping[Any, str]) -> "Corpus":
        """Another system's captions of the same images; the references are not split again."""
        other = replace(self, captions=captions)
        vars(other)["reference_tokens"] = self.reference_tokens  # where cached_property keeps it
        return other


def check(references: Mapping[Id, Sequence[object]], candidates: Mapping[Id, object]) -> None:
    """Refuses references and captions that cannot be scored against each other.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
    """
    check_references(references)
    check_same_images(references, candidates)


def check_references(references: Mapping[Id, Sequence[object]]) -> None:
    """Refuses references that nothing can be scored against.

    Raises:
        DataError: There are no images, or one has no references.
    """
    if not references:
        raise DataError("no images to score; expected references of at least one")
    for image_id, texts in references.items():
        if not texts:
            raise DataError(f"image {image_id!r} has no reference captions; expected at least one")


def check_same_images(references: Mapping[Id, object], candidates: Mapping[Id, object]) -> None:
    """Refuses captions that are not of the images of the references, all of them and no others.

    Raises:
        DataError: Images differ.
    """
    for image_id in candidates:
        if image_id not in references:
            raise DataError(
                f"image {image_id!r} has a caption but no references; score the images of the"
                " references"
            )
    missing = [image_id for image_id in references if image_id not in candidates]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(references)} images have no caption, image {missing[0]!r} for"
            " one; every image with references needs one"
        )
