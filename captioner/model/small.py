"""Small classification networks for small images, which train on a CPU in minutes."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import relu

from captioner.errors import ConfigError


class PlainCNN(nn.Module):
    """The plain CNN of the tutorials: two convolutions and two linear layers (LeCun et al. 1998).

    Each convolution is followed by a ReLU and 2x2 max-pooling. It has 0.3 million weights for 28
    pixels. The last feature map has 1/4 of the image's side, and a receptive field of 16 pixels.

    Args:
        image_size: S, the side of the images in pixels.
        classes: C, the number of classes.

    Raises:
        ConfigError: The images are too small.
    """

    def __init__(self, image_size: int, classes: int) -> None:
        super().__init__()
        side = image_size // 2 // 2
        if side < 1:
            raise ConfigError(f"plain_cnn requires images of at least 4 pixels, not {image_size}.")
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 48, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(48 * side * side, 128),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(128, classes),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (B, C) of preprocessed images (B, 3, S, S)."""
        return self.classifier(self.features(pixels))  # type: ignore[no-any-return]


class ResNet20(nn.Module):
    """The residual network of 20 layers for CIFAR: 0.27 million weights (He et al. 2016, 4.2).

    Args:
        image_size: S, the side of the images in pixels; the last feature map has 1/4 of it.
        classes: C, the number of classes.
    """

    def __init__(self, image_size: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.stages = nn.Sequential(_stage(16, 16, 1), _stage(16, 32, 2), _stage(32, 64, 2))
        self.classifier = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (B, C) of preprocessed images (B, 3, S, S)."""
        features: Tensor = self.stages(self.stem(pixels))  # (B, 64, S/4, S/4)
        return self.classifier(features.mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two convolutions with a shortcut, which a 1x1 convolution adapts to their output's shape."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Compute features (B, width, H / stride, W / stride) from (B, before, H, W)."""
        return relu(self.layers(features) + self.shortcut(features))


def _stage(before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _Block(before, width, stride), _Block(width, width, 1), _Block(width, width, 1)
    )


SMALL: dict[str, Callable[[int, int], nn.Module]] = {"plain_cnn": PlainCNN, "resnet20": ResNet20}
"""Small networks with random weights by name, built from S and C."""
