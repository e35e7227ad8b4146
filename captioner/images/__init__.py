"""Open any image safely: files, bytes, PIL images and arrays become upright RGB here.

opening.py   open_image: what the file is, how it is opened, what is said of one that cannot be
sources.py   paths and bytes -> an open file
formats.py   what the formats are called, begin with and end in
extras.py    HEIC, JPEG XL and camera raw, by packages that are installed only on request
raw.py       camera raw files: the preview inside, or developed
png.py       PNGs with more text than Pillow takes
pixels.py    an image of any mode, an array of any kind -> RGB
profiles.py  colour profiles -> sRGB
folders.py   find_images: what of a folder is a photo of the user's
"""

from captioner.images.folders import find_images
from captioner.images.formats import IMAGE_SUFFIXES
from captioner.images.opening import open_image
from captioner.images.pixels import MAX_PIXELS
from captioner.images.sources import ImageSource

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageSource", "find_images", "open_image"]
