"""Small rotations, shifts and distortions of training images, by torchvision's transforms."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from captioner.errors import ConfigError


@dataclass(frozen=True)
class Warp:
    """The geometric augmentation of training images after resizing; new areas are black.

    Args:
        rotate: Maximum angle of a rotation to either side, in degrees.
        shift: Maximum shift in either direction, as a share of the side.
        scale: Maximum relative change of size.
        shear: Maximum angle of a shear to either side, in degrees.
        elastic: Strength of an elastic deformation (Simard et al. 2003), in pixels; 0 for none.
    """

    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0

    def __post_init__(self) -> None:
        angles = (self.rotate, self.shear)
        if not all(0 <= angle <= 180 for angle in angles) or self.elastic < 0:
            raise ConfigError(f"{self}: expected angles from 0 to 180, and elastic of 0 or more.")
        if not 0 <= self.shift <= 1 or not 0 <= self.scale < 1:
            raise ConfigError(f"{self}: expected shares from 0 to below 1.")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Warp one image, keeping its size."""
        if not self._steps:
            return image
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global state
            torch.manual_seed(int(rng.integers(2**63)))
            for step in self._steps:
                image = step(image)
        return image

    @cached_property
    def _steps(self) -> tuple[v2.Transform, ...]:
        steps: list[v2.Transform] = []
        if self.rotate or self.shift or self.scale or self.shear:
            affine = v2.RandomAffine(
                self.rotate,
                translate=(self.shift, self.shift),
                scale=(1 - self.scale, 1 + self.scale),
                shear=self.shear,
                interpolation=InterpolationMode.BILINEAR,
            )
            steps.append(affine)
        if self.elastic:
            steps.append(v2.ElasticTransform(alpha=self.elastic))
        return tuple(steps)
