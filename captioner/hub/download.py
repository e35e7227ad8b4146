"""Fetch models of the hub: hf://owner/name@revision -> a folder in the library's cache."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from captioner._version import __version__
from captioner.errors import CheckpointError, ConfigError, MissingExtraError

_REFERENCE = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^\s@]+))?")


def local_folder(
    model: str | os.PathLike[str], files: tuple[str, ...], needed: tuple[str, ...] = ()
) -> Path:
    """Return the folder of a model: the path, or the cached download of hf://owner/name@revision.

    The hub is asked once a process. Where it cannot be reached, what is cached is used.

    Args:
        model: A path, or a model of the hub.
        files: The files to fetch; all others stay there.
        needed: Those of them without which it is no model.

    Raises:
        CheckpointError: The hub has no such model, or it cannot be reached and nothing is cached,
            or a file is damaged.
        ConfigError: It begins as a model of a hub and isn't one.
        MissingExtraError: huggingface_hub is not installed.
    """
    text = os.fspath(model)
    return _download(text, files, needed) if is_of_hub(text) else Path(text)


def is_of_hub(model: str) -> bool:
    """Whether this names a model of the hub rather than a folder."""
    return model.startswith("hf:/")  # a Path has one slash of the two


@cache
def _download(reference: str, files: tuple[str, ...], needed: tuple[str, ...]) -> Path:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ConfigError(
            f"{reference} is no model of a hub; expected hf://owner/name or hf://owner/name@revision."
        )
    hub = hub_library()
    try:
        folder = hub.snapshot_download(
            found["name"],
            revision=found["revision"],
            allow_patterns=list(files),
            library_name="captioner",
            library_version=__version__,
        )
    except Exception as error:  # it lets the errors of its HTTP library through
        raise CheckpointError(_why(reference, error)) from error
    missing = [name for name in needed if not Path(folder, name).is_file()]
    if missing:
        raise CheckpointError(
            f"{reference} is no captioner model: it has no {' or '.join(missing)}."
        )
    for path in sorted(Path(folder).iterdir()):
        _check_content(path)
    return Path(folder)


def _why(reference: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{reference} is gated: request access on its page, then run: hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{reference}: the model has no such revision; expected a branch, tag or commit."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"The hub has no model {reference}, or it is private. Check its name, or run: hf auth"
            " login"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"The hub cannot be reached, and {reference} is not in the cache, or not all of it. Try"
            " again with a network."
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401:
        return (
            f"The hub refuses your token, so {reference} cannot be fetched. Run: hf auth login; or"
            " unset HF_TOKEN if it is set."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{reference} cannot be fetched ({first}). Try again; what is there is kept."


def _check_content(path: Path) -> None:
    """Check a cached file against its checksum, which is the name of the file that it links to.

    The library itself checks sizes alone where files come over plain HTTP.
    """
    import hashlib  # here, as it loads OpenSSL, which folders can do without

    blob = path.resolve()
    if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return  # a file system without links: there is nothing to check against
    data = blob.read_bytes()
    if len(blob.name) == 64:
        found = hashlib.sha256(data).hexdigest()
    else:  # as git names a file
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if found != blob.name:
        raise CheckpointError(
            f"{path.name} was damaged on its way: it has another checksum. Remove {blob}, and try"
            " again."
        )


def hub_library() -> Any:
    """Return the package huggingface_hub.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtraError("A model of the hub", "hub") from error
    return huggingface_hub
