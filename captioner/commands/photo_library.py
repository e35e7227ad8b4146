"""Options that store captions with photos: `--xmp`, `--embed`, `--replace`; `--html`."""

import json
import os
import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.captions_file import Run
from captioner.commands.parser import STANDARD_INPUT, Parser
from captioner.errors import ConfigError, DataError
from captioner.files import real_path

if TYPE_CHECKING:
    from captioner.inference import Caption
    from captioner.library.sidecars import PhotoStore

_LANGUAGE = re.compile(r"(?!x-default$)[a-z]{1,8}(-[a-z0-9]{1,8})*", re.IGNORECASE)  # RFC 3066


def add_photo_library(parser: Parser) -> None:
    """Add `--xmp`, `--embed` and the options of both."""
    group = parser.add_argument_group("photo libraries")
    group.add_argument(
        "--xmp",
        action="store_true",
        help="Write captions to XMP sidecars, photo.jpg.xmp.",
    )
    group.add_argument(
        "--xmp-stem",
        action="store_true",
        help="Name sidecars photo.xmp, like Adobe's software.",
    )
    group.add_argument(
        "--embed",
        action="store_true",
        help="Write captions into the photos with ExifTool, which keeps a backup of each.",
    )
    group.add_argument(
        "--replace",
        action="store_true",
        help="Replace captions written by people too.",
    )
    group.add_argument(
        "--language",
        metavar="LANG",
        help="The language tag of the captions. [default: en]",
    )


def check_photo_library(options: Namespace) -> None:
    """Check these options before anything runs.

    Raises:
        ConfigError: The options cannot be combined, or photos are not files.
    """
    if options.xmp or options.embed:
        if STANDARD_INPUT in options.operands:
            raise ConfigError("--xmp and --embed require files, not standard input.")
        if options.xmp_stem and not options.xmp:
            raise ConfigError("--xmp-stem requires --xmp.")
        if options.language is not None and not _LANGUAGE.fullmatch(options.language):
            raise ConfigError(
                f"--language is {options.language!r}; expected a language tag, such as de or pt-BR."
            )
        return
    for name in ("xmp_stem", "replace", "language"):
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')} requires --xmp or --embed.")


def photo_stores(options: Namespace, describe: Callable[[], Run]) -> list["PhotoStore"]:
    """Create the requested stores of captions: sidecars and the photos themselves.

    Args:
        options: The options of `add_photo_library`, and `tags`.
        describe: Returns the models and the options of the captions; called if there are stores.

    Raises:
        ConfigError: ExifTool is required but not installed.
        MissingExtraError: lxml is not installed.
    """
    if not (options.xmp or options.embed):
        return []
    import hashlib  # here, as it loads OpenSSL, which other calls don't need

    from captioner.library.sidecars import Photos, Rules, Sidecars

    run, language = describe(), options.language or "en"
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
) -> bool:
    """Save a caption with its photo; write errors are reported, and the run continues.

    Returns:
        Whether all stores have it.
    """
    saved = True
    for store in stores:
        try:
            store.save(photo, caption)
        except DataError as error:
            fail(f"{photo}: {error}")
            saved = False
        except OSError as error:
            fail(f"{photo}: cannot save its caption ({error.strerror or error})")
            saved = False
    return saved


def check_page(page: Path, inputs: Sequence[str]) -> None:
    """Check that an album can be written and would not overwrite another file.

    Args:
        page: The album.
        inputs: The images and folders of images to read.

    Raises:
        ConfigError: The page is a folder, not an HTML file, or not an album.
        OSError: The page cannot be written.
    """
    from captioner.library.album import is_album

    if STANDARD_INPUT in inputs:
        raise ConfigError("--html requires files, not standard input.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {page}: expected an HTML file, such as album.html.")
    if page.exists() and not is_album(page):
        raise ConfigError(
            f"--html {page} already exists and is not an album by captioner, so it is not"
            " overwritten. Remove it, or choose another file."
        )
    if not os.access(real_path(page).parent, os.W_OK):
        raise ConfigError(f"--html {page}: the folder doesn't exist or is not writable.")
