"""What is scored: tokenised references and captions by image id, and whether they belong together."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from captioner.errors import DataError

Id = TypeVar("Id", bound=Hashable)
Tokens: TypeAlias = Sequence[str]


def check(references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]) -> None:
    """Refuses references and captions that cannot be scored against each other.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
    """
    check_references(references)
    check_same_images(references, candidates)


def check_references(references: Mapping[Id, Sequence[Tokens]]) -> None:
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
            raise DataError(f"image {image_id!r} has a caption but no references; score the images of the references")
    missing = [image_id for image_id in references if image_id not in candidates]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(references)} images have no caption, image {missing[0]!r} for one; "
            "every image with references needs one"
        )
