"""Convert upright RGB images to (3, S, S) float32, in training and inference alike.

The results equal those of torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize` on PIL
images, bit for bit; except that for "center_crop", an image more than 32 times as long as wide is
cropped to its middle before it is resized. The settings are stored with the weights.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.errors import ConfigError, ImageError
from captioner.sections import is_count, is_number

Resize = Literal["squash", "center_crop"]
Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of the encoder.

    Attributes:
        size: S, the side of the square input, in pixels.
        resize: "squash" resizes to (S, S) and ignores the aspect ratio, so that nothing is cut off;
            "center_crop" resizes the shorter side to S and takes the square in the middle.
        interpolation: The filter for resizing; both are antialiased.
        mean: Subtracted from the red, green and blue values in 0..1.
        std: The divisors after the subtraction.

    Raises:
        ConfigError: A value is of the wrong type or out of range.
    """

    size: int = 224
    resize: Resize = "squash"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the values, and convert the lists and ints of a JSON file to tuples of floats."""
        if not is_count(self.size):
            raise ConfigError(
                f"preprocessing.size is {self.size!r}: expected a whole number of pixels, at"
                " least 1"
            )
        for key, choices in (
            ("resize", get_args(Resize)),
            ("interpolation", get_args(Interpolation)),
        ):
            if getattr(self, key) not in choices:
                raise ConfigError(
                    f"preprocessing.{key} is {getattr(self, key)!r}: expected one of"
                    f" {', '.join(choices)}"
                )
        for key in ("mean", "std"):
            object.__setattr__(self, key, _three_floats(key, getattr(self, key)))
        if min(self.std) <= 0:
            raise ConfigError(f"preprocessing.std is {self.std}: expected numbers above 0")

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Resize, crop and normalize an image.

        Args:
            image: An image in mode "RGB", of any size.

        Returns:
            An array (3, S, S), C-contiguous.
        """
        return self.normalize(self.fit(image))

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize and crop an image of any size to (S, S), as the encoder will see it."""
        resample = Image.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return image.resize((self.size, self.size), resample)
        image = _limit_aspect(image)
        short = min(image.size)
        width, height = (self.size * side // short for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image.resize((width, height), resample)
        return resized.crop((left, top, left + self.size, top + self.size))

    def normalize(self, image: Image.Image) -> NDArray[np.float32]:
        """Turn an image (H, W) in mode "RGB" into normalized values (3, H, W), C-contiguous."""
        if image.mode != "RGB":
            raise ImageError(
                "image",
                f"is in mode {image.mode}: expected RGB, as captioner.images.open_image gives it",
            )
        pixels = np.asarray(image)  # (H, W, 3) uint8
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        result = np.empty((3, *pixels.shape[:2]), np.float32)
        for channel in range(3):  # a lookup table of the 256 results is as fast as computing each
            table = (values - np.float32(self.mean[channel])) / np.float32(self.std[channel])
            np.take(
                table, pixels[:, :, channel], out=result[channel], mode="clip"
            )  # the default mode makes a copy
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name, for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Create it from values by name; missing ones get their defaults.

        Raises:
            ConfigError: A name is unknown, or its value is of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"preprocessing is {values!r}: expected names with values")
        known = [field.name for field in fields(cls)]
        unknown = [str(key) for key in values if key not in known]
        if unknown:
            raise ConfigError(
                f"preprocessing has unknown keys: {', '.join(unknown)}; expected {', '.join(known)}"
            )
        return cls(**values)


def _limit_aspect(image: Image.Image) -> Image.Image:
    """Crop a long strip to its middle: 1 x 100,000 pixels would become 224 x 22,400,000."""
    longest = 32 * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = (max(0, side - longest) // 2 for side in image.size)
    return image.crop(
        (left, top, left + min(image.width, longest), top + min(image.height, longest))
    )


def _three_floats(key: str, value: Any) -> tuple[float, float, float]:
    if (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(is_number(number) for number in value)
    ):
        red, green, blue = (float(number) for number in value)
        return red, green, blue
    raise ConfigError(
        f"preprocessing.{key} is {value!r}: expected three numbers, for red, green and blue"
    )
