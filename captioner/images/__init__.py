"""Open any image safely: files, bytes, PIL images and arrays become upright RGB.

opening.py   open_image: identify and open a file, or explain why it cannot be opened
sources.py   open paths and bytes as files
formats.py   names, magic bytes and suffixes of formats
extras.py    HEIC, JPEG XL and camera raw, with optional packages
raw.py       camera raw files: extract the preview, or develop
png.py       PNGs with more text than Pillow accepts, transparent colours
pixels.py    convert images of any mode and arrays to RGB
profiles.py  convert colour profiles to sRGB
folders.py   find_images: find the user's photos in a folder
"""

from captioner.images.folders import find_images
from captioner.images.formats import IMAGE_SUFFIXES
from captioner.images.opening import open_image
from captioner.images.pixels import MAX_PIXELS
from captioner.images.sources import ImageSource

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageSource", "find_images", "open_image"]
