"""Damaged training images: corruptions as augmentation, those of `captioner.robustness.damages`."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from captioner.errors import ConfigError
from captioner.robustness.damages import SEVERITIES, damage, find_damages, fit, severities_of


@dataclass(frozen=True)
class Corruptions:
    """How a share of the training images is damaged; needs the extra `robustness`.

    A damaged image is scaled to a shorter side of 256 pixels first, so that severities mean what
    they mean when robustness is measured.

    Args:
        share: Share of the images that are damaged; 0 damages none.
        names: The damages that are drawn from: names of damages or of their groups.
        severities: The severities that are drawn from, of 1 to 5.
    """

    share: float = 0.0
    names: tuple[str, ...] = ("noise", "blur", "weather", "digital")
    severities: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not set(self.severities) <= set(SEVERITIES):
            raise ConfigError(
                f"Corruptions with share {self.share} and severities {self.severities}; expected a"
                " share from 0 to 1, and severities of 1 to 5."
            )
        if self.share:
            for name, severities in self._cases:
                if not severities:
                    raise ConfigError(
                        f"Corruptions by {name!r} has none of the severities {self.severities};"
                        f" expected some of {', '.join(map(str, severities_of(name)))}."
                    )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Damage an image or leave it, as is drawn.

        Args:
            image: An image in mode "RGB".
            rng: Of all that is drawn; with a share of 0, nothing is.
        """
        if not self.share or rng.random() >= self.share:
            return image
        name, severities = self._cases[int(rng.integers(len(self._cases)))]
        severity = severities[int(rng.integers(len(severities)))]
        seed = int(rng.integers(2**31))
        return damage(fit(image), name, severity, key="", seed=seed)

    @cached_property
    def _cases(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Each damage with its severities."""
        return tuple(
            (name, tuple(each for each in severities_of(name) if each in self.severities))
            for name in find_damages(",".join(self.names))
        )
