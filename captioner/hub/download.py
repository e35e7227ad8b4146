"""Download models from the hub: hf://owner/name@revision -> a folder in the library's cache."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from captioner._version import __version__
from captioner.errors import CheckpointError, ConfigError, MissingExtraError

_ADDRESS = re.compile(r"(?i)https?:/|hf:|huggingface\.co/")  # a Path has one slash of the two
_REFERENCE = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^\s@]+))?")


def local_folder(
    model: str | os.PathLike[str], files: tuple[str, ...], needed: tuple[str, ...] = ()
) -> Path:
    """Return the folder of a model: the path, or the cached download of hf://owner/name@revision.

    The hub is contacted once per process. If it cannot be reached, the cached files are used.

    Args:
        model: A path, or a model on the hub.
        files: The files to download; all others are skipped.
        needed: The files that a model requires.

    Raises:
        CheckpointError: The hub has no such model, or it cannot be reached and nothing is cached,
            or a file is damaged.
        ConfigError: The reference starts with hf:/ but is malformed, or it is a web address.
        MissingExtraError: huggingface_hub is not installed.
    """
    text = os.fspath(model)
    if is_of_hub(text):
        return _download(text, files, needed)
    if _ADDRESS.match(text) and not Path(text).exists():
        raise ConfigError(
            f"{text} is neither a folder nor a model on the hub; expected hf://owner/name for one"
            " on the hub."
        )
    return Path(text)


def is_of_hub(model: str) -> bool:
    """Return whether a reference is a model on the hub rather than a folder."""
    return model.startswith("hf:/")  # a Path has one slash of the two


def check_writable(model: str | os.PathLike[str]) -> None:
    """Check that a model is a folder, whose files may be changed, rather than one of the hub.

    Raises:
        ConfigError: It is a model of the hub; its cached files must stay as they are.
    """
    text = os.fspath(model)
    if is_of_hub(text):
        raise ConfigError(
            f"{text} is a model of the hub, whose files stay as they are. Copy its folder, which"
            f" captioner info {text} shows, and give the copy."
        )


@cache
def _download(reference: str, files: tuple[str, ...], needed: tuple[str, ...]) -> Path:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ConfigError(
            f"{reference} is invalid; expected hf://owner/name or hf://owner/name@revision."
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
    except Exception as error:  # errors of its HTTP library pass through
        raise CheckpointError(_why(reference, error)) from error
    missing = [name for name in needed if not Path(folder, name).is_file()]
    if missing:
        raise CheckpointError(
            f"{reference} is not a captioner model: it has no {' or '.join(missing)}."
        )
    for path in sorted(Path(folder).iterdir()):
        _check_content(path)
    return Path(folder)


def _why(reference: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return f"{reference} cannot be a model on the hub: {error}"
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
            f"The hub cannot be reached, and {reference} is not completely cached. Try again with a"
            " network connection."
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401:
        return (
            f"The hub rejected your token, so {reference} cannot be downloaded. Run: hf auth login;"
            " or unset HF_TOKEN if it is set."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{reference} cannot be downloaded ({first}). Try again; downloaded files are kept."


def _check_content(path: Path) -> None:
    """Verify the checksum of a cached file, which is the name of the file that it links to.

    The library itself verifies only sizes of files that come over plain HTTP.
    """
    import hashlib  # here, as it loads OpenSSL, which local folders don't need

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
            f"{path.name} is damaged: its checksum doesn't match. Remove {blob}, and try again."
        )


def hub_library() -> Any:
    """Return the package huggingface_hub.

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtraError("A model on the hub", "hub") from error
    return huggingface_hub
