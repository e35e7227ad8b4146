"""Scores by object category, from a COCO instances file."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from captioner.errors import DataError
from captioner.evaluation.findings import Group
from captioner.evaluation.results import ImageId, load_json
from captioner.evaluation.scoring import Scored

NO_OBJECTS = "no objects"

T = TypeVar("T")


def read_groups(
    path: str | os.PathLike[str], image_ids: Collection[ImageId]
) -> dict[str, frozenset[ImageId]]:
    """Group images by the objects in them; an image is in one group for each object category.

    Args:
        path: A COCO instances file, such as `instances_val2017.json`: objects with "image_id" and
            "category_id", and categories with "name" and optionally "supercategory". Other images
            are ignored.
        image_ids: The images to group.

    Returns:
        Image ids by group: supercategories ("animal"), then categories ("animal: dog"), both in the
        order of the file, then images without objects; empty groups are left out.

    Raises:
        DataError: The file cannot be read, has another format, or has none of the images.
    """
    path = Path(path)
    dataset = _read(path)
    names = [
        _names(f"{path}, categories[{number}]", category)
        for number, category in enumerate(dataset["categories"])
    ]
    groups_of = dict(names)
    members: dict[str, set[ImageId]] = {groups[0]: set() for groups in groups_of.values()}
    members |= {groups[-1]: set() for groups in groups_of.values() if groups[-1] not in members}
    wanted = set(image_ids)
    for image_id, groups in _objects(path, dataset, wanted, groups_of):
        for group in groups:
            members[group].add(image_id)
    found = {name: frozenset(group) for name, group in members.items() if group}
    if not found:
        raise DataError(
            f"{path}: no objects in any of the {len(image_ids):,} annotated images; expected the"
            " instances file of these images"
        )
    none = frozenset(wanted.difference(*found.values()))
    return found | ({NO_OBJECTS: none} if none else {})


def read_objects(
    path: str | os.PathLike[str], image_ids: Collection[ImageId]
) -> dict[ImageId, frozenset[str]]:
    """Read the object categories in each image.

    Args:
        path: See `read_groups`.
        image_ids: The images.

    Returns:
        The names of the categories in each image; empty for an image without objects.

    Raises:
        DataError: The file cannot be read or has another format.
    """
    path = Path(path)
    dataset = _read(path)
    names: dict[Any, str] = {}
    for number, category in enumerate(dataset["categories"]):
        _names(f"{path}, categories[{number}]", category)
        names[category["id"]] = category["name"]
    found: dict[ImageId, set[str]] = {image_id: set() for image_id in image_ids}
    for image_id, name in _objects(path, dataset, set(image_ids), names):
        found[image_id].add(name)
    return {image_id: frozenset(kinds) for image_id, kinds in found.items()}


def score_groups(
    scored: Scored, image_ids: Sequence[ImageId], members: Mapping[str, Collection[ImageId]]
) -> tuple[Group, ...]:
    """Score groups of images.

    BLEU is computed on the group as a separate corpus. CIDEr-D is the mean over the group's images,
    with the document frequencies of the whole set: words for an object that is in every image of
    the group would get too little weight otherwise.

    Args:
        scored: The scores of all images.
        image_ids: The ids of these N images.
        members: The image ids of each group; other ids are ignored.

    Returns:
        The groups that have at least one of the images.
    """
    present = {
        name: [image_id in group for image_id in image_ids] for name, group in members.items()
    }
    present = {name: flags for name, flags in present.items() if any(flags)}
    if not present:
        return ()
    weights = np.array(list(present.values()), dtype=np.float64)  # (groups, N)
    found = scored.weighed(weights)
    return tuple(
        Group(name, sum(flags), {score: float(values[row]) for score, values in found.items()})
        for row, (name, flags) in enumerate(present.items())
    )


def _objects(
    path: Path, dataset: Mapping[str, Any], wanted: Collection[ImageId], kinds: Mapping[Any, T]
) -> Iterator[tuple[ImageId, T]]:
    """Yield the image of each object in the wanted images, with its category's entry in `kinds`."""
    for number, annotation in enumerate(dataset["annotations"]):
        try:
            image_id, kind = annotation["image_id"], kinds[annotation["category_id"]]
            asked = image_id in wanted
        except (KeyError, TypeError) as error:
            where = f"{path}, annotations[{number}]"
            raise DataError(
                f'{where}: expected "image_id", and a "category_id" of the "categories"'
            ) from error
        if asked:
            yield image_id, kind


def _read(path: Path) -> dict[str, Any]:
    dataset = load_json(path)
    if not isinstance(dataset, dict) or not all(
        isinstance(dataset.get(k), list) for k in ("annotations", "categories")
    ):
        raise DataError(
            f'{path}: not a COCO instances file, an object with lists "annotations" and'
            ' "categories"; COCO names them like instances_val2017.json'
        )
    return dataset


def _names(where: str, category: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a category's id and its groups: supercategory and category, or just the category."""
    if (
        not isinstance(category, dict)
        or not isinstance(category.get("name"), str)
        or not isinstance(category.get("id"), int | str)
    ):
        raise DataError(f'{where}: expected "id" and "name"')
    above = category.get("supercategory")
    if not isinstance(above, str) or not above:
        return category["id"], (category["name"],)
    return category["id"], (above, f"{above}: {category['name']}")
