"""Damaged photos: 15 corruptions in 5 severities, and typical damage of real photos.

The corruptions are those of ImageNet-C (Hendrycks and Dietterich 2019, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations"), from the package imagecorruptions-imaug, with
its severities. The others are computed here:

- `rotation`: a lost EXIF orientation; 1 is a quarter turn to the right, 2 one to the left, 3 a half
  turn.
- `night`: 1 to 5 stops less light, in linear light, with the shot noise of a small sensor and read
  noise.
- `screenshot`: the photo in a phone's screenshot, with black bars and a status bar; the aspect
  ratio of the screen is 1 to 2.17 (19.5:9).
- `crop`: a randomly placed window with 60, 40, 25, 15 or 8 % of the photo's area.
"""

import contextlib
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from captioner.errors import ConfigError, MissingExtraError

SIDE = 256  # pixels: severities depend on the photo's size, so all photos are scaled to it
SEVERITIES = (1, 2, 3, 4, 5)

_SMALLEST = 32  # pixels, the minimum for the corruptions
_STOPS = (1, 2, 3, 4, 5)
_PHOTONS = 500  # per white pixel before the light fades
_READ_NOISE = 2.0  # photons, standard deviation
_SCREENS = (1.0, 4 / 3, 16 / 9, 2.0, 19.5 / 9)  # height by width
_AREAS = (0.6, 0.4, 0.25, 0.15, 0.08)  # remaining shares
_TURNS = (
    Image.Transpose.ROTATE_270,  # Pillow rotates counterclockwise
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
)
_SEEDED = ("glass_blur", "impulse_noise")  # these use their own generator

Pixels = NDArray[np.uint8]
Random = np.random.Generator


def _rotation(image: Image.Image, severity: int, random: Random) -> Image.Image:
    return image.transpose(_TURNS[severity - 1])


def _night(image: Image.Image, severity: int, random: Random) -> Image.Image:
    light = (np.asarray(image) / 255.0) ** 2.2 * _PHOTONS / 2.0 ** _STOPS[severity - 1]
    counted = random.poisson(light) + random.normal(0, _READ_NOISE, light.shape)
    values = (np.clip(counted, 0, _PHOTONS) / _PHOTONS) ** (1 / 2.2)
    return Image.fromarray(np.rint(255 * values).astype(np.uint8))


def _screenshot(image: Image.Image, severity: int, random: Random) -> Image.Image:
    ratio = _SCREENS[severity - 1]
    width = round(max(image.width, image.height / ratio))
    screen = Image.new("RGB", (width, round(width * ratio)))
    screen.paste(image, ((screen.width - image.width) // 2, (screen.height - image.height) // 2))
    draw, unit = ImageDraw.Draw(screen), max(1, screen.width // 60)
    for left, right in ((3, 9), (48, 51), (53, 57)):  # the clock, the network, the battery
        draw.rectangle((left * unit, unit, right * unit, 3 * unit), "white")
    return screen


def _crop(image: Image.Image, severity: int, random: Random) -> Image.Image:
    share = _AREAS[severity - 1] ** 0.5
    width, height = (max(1, round(share * side)) for side in image.size)
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


_OWN: dict[str, Callable[[Image.Image, int, Random], Image.Image]] = {
    "rotation": _rotation,
    "night": _night,
    "screenshot": _screenshot,
    "crop": _crop,
}
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "real": tuple(_OWN),
}
DAMAGES = tuple(name for names in GROUPS.values() for name in names)


def find_damages(names: str) -> tuple[str, ...]:
    """Find damages by their names.

    Args:
        names: Names of `DAMAGES` or of `GROUPS`, separated by commas; "all" for all of them.

    Returns:
        Their names, in the order of `DAMAGES`.

    Raises:
        ConfigError: A name is unknown.
        MissingExtraError: The package of the corruptions is not installed.
    """
    wanted: set[str] = set()
    for name in (part.strip() for part in names.split(",")):
        if name not in ("all", *GROUPS, *DAMAGES):
            raise ConfigError(
                f"Unknown damage {name!r}; expected all, a group ({', '.join(GROUPS)}) or some"
                f" of {', '.join(DAMAGES)}."
            )
        wanted.update(DAMAGES if name == "all" else GROUPS.get(name, (name,)))
    if not wanted.issubset(_OWN):
        _check_installed()
    return tuple(name for name in DAMAGES if name in wanted)


def severities_of(name: str) -> tuple[int, ...]:
    """Return the severities of a damage."""
    return SEVERITIES[: len(_TURNS)] if name == "rotation" else SEVERITIES


def fit(image: Image.Image) -> Image.Image:
    """Scale a photo down so that its shorter side has 256 pixels; scale a tiny one up to 32.

    Args:
        image: An image in mode "RGB".
    """
    side = min(max(min(image.size), _SMALLEST), SIDE)
    scale = side / min(image.size)
    if scale == 1:
        return image
    width, height = (max(side, round(scale * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def damage(image: Image.Image, name: str, severity: int, *, key: str, seed: int = 0) -> Image.Image:
    """Damage a photo.

    Args:
        image: An image in mode "RGB", from `fit`.
        name: One of `DAMAGES`.
        severity: One of `severities_of`.
        key: The identity of the photo. Random choices depend only on it, `name`, `severity` and
            `seed`, not on earlier calls.
        seed: The random seed.

    Returns:
        The damaged image; some damages change its size.

    Raises:
        MissingExtraError: The package of the corruptions is not installed.
    """
    words = [seed, severity, zlib.crc32(name.encode()), zlib.crc32(key.encode())]
    random = np.random.default_rng(words)
    if name in _OWN:
        return _OWN[name](image, severity, random)
    corrupt = _check_installed()
    own = int(random.integers(2**31))
    more = {"seed": own} if name in _SEEDED else {}
    with _numpy_seeded(own):
        damaged = corrupt(np.asarray(image), severity=severity, corruption_name=name, **more)
    return Image.fromarray(damaged)


def _check_installed() -> Callable[..., Pixels]:
    """Import the package of the corruptions."""
    try:
        from imagecorruptions import corrupt
    except ImportError as error:
        raise MissingExtraError("Corrupting photos", "robustness") from error
    return corrupt  # type: ignore[no-any-return]


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which the package uses, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
