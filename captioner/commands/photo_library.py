"""Options that store captions with photos: `--xmp`, `--embed`, `--replace`; `--html`."""

import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.captions_file import Run
from captioner.commands.parser import STANDARD_INPUT, Parser
from captioner.errors import ConfigError, DataError

if TYPE_CHECKING:
    from captioner.inference import Caption
    from captioner.library.sidecars import PhotoStore


def add_photo_library(parser: Parser) -> None:
    """Add `--xmp`, `--embed` and the options of both."""
    group = parser.add_argument_group("photo libraries")
    group.add_argument(
        "--xmp",
        action="store_true",
        help="Write captions into XMP sidecars, photo.jpg.xmp.",
    )
    group.add_argument(
        "--xmp-stem",
        action="store_true",
        help="Name sidecars photo.xmp, as Adobe's software does.",
    )
    group.add_argument(
        "--embed",
        action="store_true",
        help="Write captions into the photos, by ExifTool, which keeps a copy of each.",
    )
    group.add_argument(
        "--replace",
        action="store_true",
        help="Replace captions that people wrote, too.",
    )
    group.add_argument(
        "--language",
        metavar="LANG",
        help="The language that captions are marked with. [default: en]",
    )


def check_photo_library(options: Namespace) -> None:
    """Find what is wrong with these options before anything runs.

    Raises:
        ConfigError: They contradict each other, or photos are not files.
    """
    if options.xmp or options.embed:
        if STANDARD_INPUT in options.operands:
            raise ConfigError("--xmp and --embed need photos that are files, not standard input.")
        if options.xmp_stem and not options.xmp:
            raise ConfigError("--xmp-stem says how sidecars are named; give --xmp too.")
        return
    for name in ("xmp_stem", "replace", "language"):
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')} needs --xmp or --embed.")


def photo_stores(options: Namespace, run: Run) -> list["PhotoStore"]:
    """Where captions are kept with their photos.

    Args:
        options: The options of `add_photo_library`, and `tags`.
        run: The models and the options of the captions.

    Raises:
        ConfigError: ExifTool is needed, and not installed.
        MissingExtraError: lxml is not installed.
    """
    if not (options.xmp or options.embed):
        return []
    import hashlib  # here, as it loads OpenSSL, which other calls can do without

    from captioner.library.sidecars import Photos, Rules, Sidecars

    language = options.language or "en"
    facts = [run.models, asdict(run)["decoding"], language, options.tags]
    mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    rules = Rules(mark, language, options.tags, options.replace, options.xmp_stem)
    stores: list[PhotoStore] = []
    if options.xmp:
        stores.append(Sidecars(rules))
    if options.embed:
        stores.append(Photos(rules))
    return stores


def save_in(
    stores: Sequence["PhotoStore"], photo: str, caption: "Caption", fail: Callable[[str], None]
) -> None:
    """Keep a caption with its photo; what cannot be written is said, and the run goes on."""
    for store in stores:
        try:
            store.save(photo, caption)
        except DataError as error:
            fail(f"{photo}: {error}")
        except OSError as error:
            fail(f"{photo}: its caption cannot be saved ({error.strerror or error})")


def check_page(page: Path, inputs: Sequence[str]) -> None:
    """Refuse a page that cannot be written, or would replace something else.

    Args:
        page: The album.
        inputs: The images and folders of images that are read.

    Raises:
        ConfigError: It is a folder, no HTML file, or somebody else's.
        OSError: It cannot be written.
    """
    from captioner.library.album import is_album

    if STANDARD_INPUT in inputs:
        raise ConfigError("--html needs photos that are files, not standard input.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {page} is no page; expected a file such as album.html.")
    if page.exists() and not is_album(page):
        raise ConfigError(
            f"--html {page} is there already, and is no album of captioner's, so it is left as it"
            " is. Remove it, or name another file."
        )
    if not os.access(page.resolve().parent, os.W_OK):
        raise ConfigError(f"--html {page}: its folder is not there, or not writable.")
