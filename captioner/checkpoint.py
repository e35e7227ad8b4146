"""Read, write and describe checkpoint folders.

    config.json                  format_version, package_version, architecture, preprocessing,
                                 decoding defaults, tags, confidence, events
    vocabulary.json              words in id order
    model.safetensors            all weights
    encoder.onnx, decoder.onnx   for inference without torch; weights are in model.safetensors
    README.md                    the model card

Reading is strict, and checks only that the weights are complete and match the config.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner._version import __version__
from captioner.confidence import Confidence
from captioner.decoding.options import DecodingOptions
from captioner.errors import CheckpointError, ConfigError
from captioner.events.config import EventConfig
from captioner.hub.download import local_folder
from captioner.preprocessing import Preprocessing
from captioner.sections import is_count
from captioner.tags import TagConfig
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from captioner.weights import weight_shapes

FORMAT_VERSION = 3  # the newest; a folder gets the lowest version that covers its contents
BUNDLED = Path(__file__).parent / "assets"

CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
WEIGHTS = "model.safetensors"
ONNX_PAIR = ("encoder.onnx", "decoder.onnx")
CARD = "README.md"

_CHUNK = 1 << 20  # bytes that are hashed at once
FILES = (CONFIG, VOCABULARY, WEIGHTS, *ONNX_PAIR, CARD)
"""All files of a checkpoint."""
_EMBEDDING = "decoder.embedding.weight"  # a row for every word
_SECTIONS = ("architecture", "preprocessing", "decoding")
# Sections that a checkpoint may lack, and the format that they came with.
_TAGS = "tags"  # only where the model has a classifier; since format 3 its table may be a list
_CONFIDENCE = "confidence"  # only where it was calibrated
_QUANTIZED = "quantized"  # only where weights are stored as integers
_EVENTS = "events"  # only where a model of clips tells events
_OPTIONAL = {_TAGS: 2, _CONFIDENCE: 2, _QUANTIZED: 3, _EVENTS: 3}
_TEMPORAL = "temporal"  # of the architecture, since format 3: how frames of clips are joined
_KEYS = ("format_version", "package_version", *_SECTIONS)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint folder, except the weights, which stay on disk.

    Attributes:
        folder: The folder.
        architecture: What `CaptioningModel.from_architecture` builds the network from.
        preprocessing: How images become its input.
        decoding: The defaults of its decoding.
        vocabulary: Its words.
        package_version: The version of captioner that wrote it.
        tags: The meaning of its classifier's logits; None for a model without one.
        confidence: The calibration of its captions; None if it was not calibrated.
        quantized: In how many bits which weights are stored; None for floats.
        events: The meaning of its logits of events; None for a model without.
    """

    folder: Path
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    decoding: DecodingOptions
    vocabulary: Vocabulary
    package_version: str
    tags: TagConfig | None = None
    confidence: Confidence | None = None
    quantized: dict[str, Any] | None = None
    events: EventConfig | None = None

    @property
    def frames(self) -> int:
        """The number of frames that a model of clips sees; 0 for a model of photos."""
        frames: int = self.architecture.get(_TEMPORAL, {}).get("frames", 0)
        return frames

    @property
    def weights(self) -> Path:
        """The file with all weights."""
        return self.folder / WEIGHTS

    @property
    def has_onnx(self) -> bool:
        """Whether both ONNX files exist."""
        return all((self.folder / name).is_file() for name in ONNX_PAIR)


def encoder_weights(weights: str) -> str:
    """Return the name or path of an encoder's weights; of "bundled", the bundled model's folder."""
    return str(BUNDLED) if weights == "bundled" else weights


def read_checkpoint(folder: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Read a checkpoint folder, except its weights.

    Args:
        folder: The folder, or a model of the hub, hf://owner/name@revision, which is downloaded
            once; the bundled model if None or "bundled" (a folder of this name is ./bundled).

    Raises:
        CheckpointError: The folder is not a checkpoint, a file is missing or damaged, a newer
            version wrote it, or the hub has no such model.
        MissingExtraError: A model of the hub is given, and huggingface_hub is not installed.
    """
    if folder is not None and not isinstance(folder, (str, os.PathLike)):
        raise CheckpointError(f"The checkpoint folder is {folder!r}; expected its path.")
    if folder is None or folder == "bundled":
        if not (BUNDLED / CONFIG).is_file():
            raise CheckpointError(
                "This installation has no bundled model; give a checkpoint folder."
            )
        folder = BUNDLED
    else:
        folder = local_folder(folder, FILES, (CONFIG, VOCABULARY))
    _check_files(folder)
    path = folder / CONFIG
    config = _read_config(path)
    try:
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        decoding = DecodingOptions.from_dict(config["decoding"])
        decoding.check_defaults()
        tags = TagConfig.from_dict(config[_TAGS]) if _TAGS in config else None
        confidence = Confidence.from_dict(config[_CONFIDENCE]) if _CONFIDENCE in config else None
        _check_confidence(confidence, tags)
        events = EventConfig.from_dict(config[_EVENTS]) if _EVENTS in config else None
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    _check_words(folder / WEIGHTS, len(vocabulary))
    architecture, version = config["architecture"], config["package_version"]
    return Checkpoint(
        folder,
        architecture,
        preprocessing,
        decoding,
        vocabulary,
        version,
        tags,
        confidence,
        config.get(_QUANTIZED),
        events,
    )


def write_calibration(
    folder: str | os.PathLike[str] | None,
    *,
    tags: TagConfig | None = None,
    confidence: Confidence | None = None,
) -> None:
    """Write a calibration into a checkpoint's config.json, atomically.

    Everything else in the folder and in config.json is unchanged. If config.json is a link, the
    link is replaced, not its target, which others may share.

    Args:
        folder: See `read_checkpoint`.
        tags: The new meaning of its classifier's logits; None leaves it unchanged.
        confidence: The new calibration of its captions; None leaves it unchanged.

    Raises:
        CheckpointError: It is not a checkpoint, or cannot be written.
        ConfigError: The confidence requires tags, and the model has none.
    """
    checkpoint = read_checkpoint(folder)
    _check_confidence(confidence, tags or checkpoint.tags)
    sections = {_TAGS: tags, _CONFIDENCE: confidence}
    _change_config(
        checkpoint.folder / CONFIG,
        {name: section.to_dict() for name, section in sections.items() if section is not None},
    )


def drop_confidence(folder: str | os.PathLike[str] | None) -> None:
    """Remove the calibration of a checkpoint's captions, which changed weights make untrue.

    Args:
        folder: See `read_checkpoint`.

    Raises:
        CheckpointError: It is not a checkpoint, or cannot be written.
    """
    _change_config(read_checkpoint(folder).folder / CONFIG, {_CONFIDENCE: None})


def _change_config(path: Path, sections: Mapping[str, dict[str, Any] | None]) -> None:
    """Replace sections of a config.json atomically; None removes one."""
    config = {**_read_config(path), **sections}
    config = {name: value for name, value in config.items() if value is not None}
    config["format_version"] = _oldest_format(config)
    new = path.with_name(f"{CONFIG}.new")
    try:
        new.write_text(_as_json(config), encoding="utf-8")
        shutil.copymode(path, new)
        os.replace(new, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        new.unlink(missing_ok=True)


def _check_confidence(confidence: Confidence | None, tags: TagConfig | None) -> None:
    """Fail if a confidence is computed from tags, and the model has none."""
    if confidence is not None and tags is None:
        for style, calibration in confidence.styles.items():
            if calibration.needs_tags:
                raise ConfigError(
                    f"The confidence of the style {style!r} requires tags, and the model has none."
                    " Calibrate it again: captioner calibrate"
                )


def write_checkpoint(
    folder: str | os.PathLike[str],
    *,
    architecture: dict[str, Any],
    preprocessing: Preprocessing,
    decoding: DecodingOptions,
    vocabulary: Vocabulary,
    card: str,
    fill: Callable[[Path], object],
    tags: TagConfig | None = None,
    quantized: dict[str, Any] | None = None,
    events: EventConfig | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    Everything is written into a temporary folder next to it, which replaces `folder` at the end.
    Files of an earlier checkpoint there are replaced; other files are kept.

    Args:
        folder: Where to write it. Parents are created; an existing folder must be a checkpoint or
            empty.
        architecture: The value of `CaptioningModel.architecture`.
        preprocessing: How images become its input.
        decoding: The defaults of its decoding.
        vocabulary: Its words.
        card: The model card, Markdown.
        fill: Called with the temporary folder to write `model.safetensors` and optionally the ONNX
            files.
        tags: The meaning of the classifier's logits; None for a model without one.
        quantized: In how many bits which weights are stored; None for floats.
        events: The meaning of the logits of events; None for a model without.

    Raises:
        CheckpointError: `folder` exists and is not a checkpoint, or cannot be written.
        ConfigError: The decoding options cannot be defaults.
    """
    decoding.check_defaults()
    folder = Path(folder).resolve()  # a link to a folder stays a link
    check_replaceable(folder)
    config = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "architecture": architecture,
        "preprocessing": preprocessing.to_dict(),
        "decoding": decoding.to_dict(),
        **({} if tags is None else {_TAGS: tags.to_dict()}),
        **({} if quantized is None else {_QUANTIZED: quantized}),
        **({} if events is None else {_EVENTS: events.to_dict()}),
    }
    config["format_version"] = _oldest_format(config)
    import secrets  # here, because it loads OpenSSL, which reading doesn't need

    mark = secrets.token_hex(4)
    temporary, replaced = (
        folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("new", "old")
    )
    try:
        temporary.mkdir(parents=True)
        (temporary / CONFIG).write_text(_as_json(config), encoding="utf-8")
        vocabulary.save(temporary / VOCABULARY)
        (temporary / CARD).write_text(card, encoding="utf-8")
        fill(temporary)
        for path in temporary.iterdir():  # some writers create files that only the owner can read
            path.chmod((temporary / CONFIG).stat().st_mode)
        _replace(folder, temporary, replaced)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Check that `write_checkpoint` may write to a folder.

    Raises:
        CheckpointError: It exists, and is neither a checkpoint nor empty.
    """
    if (
        folder.exists()
        and not (folder / CONFIG).is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise CheckpointError(f"{folder} exists and is not a checkpoint; choose another folder.")


def fingerprint(model: str | os.PathLike[str]) -> str:
    """Hash a checkpoint: copies have the same fingerprint, other models another."""
    import hashlib  # here, as it loads OpenSSL, which many commands don't need

    folder = read_checkpoint(model).folder
    total = hashlib.sha256()
    for name in (CONFIG, VOCABULARY, WEIGHTS):
        with open(folder / name, "rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe a checkpoint, as data for JSON.

    Returns:
        folder, package_version, files (name -> size in bytes), words (the number of words, without
        special ones), styles (their names, if any), architecture, frames (for a model of clips),
        events (for a model that recognises them), preprocessing, decoding, tags (None without a
        classifier), confidence (by style; None without calibration), and card (the lines of the
        model card, without metadata).
    """
    vocabulary = checkpoint.vocabulary
    paths = [checkpoint.folder / name for name in FILES]
    return {
        "folder": str(checkpoint.folder),
        "package_version": checkpoint.package_version,
        "files": {path.name: path.stat().st_size for path in paths if path.is_file()},
        "words": len(vocabulary) - len(SPECIAL_WORDS) - len(vocabulary.styles),
        **({"styles": list(vocabulary.styles)} if vocabulary.styles else {}),
        "architecture": checkpoint.architecture,
        **({"frames": checkpoint.frames} if checkpoint.frames else {}),
        **({"events": list(checkpoint.events.labels)} if checkpoint.events else {}),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "decoding": checkpoint.decoding.to_dict(),
        "tags": None if checkpoint.tags is None else checkpoint.tags.to_dict(),
        "confidence": None if checkpoint.confidence is None else checkpoint.confidence.to_dict(),
        "card": _card_lines(checkpoint.folder / CARD),
    }


def _check_files(folder: Path) -> None:
    """Check that the files exist that every checkpoint has."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"The checkpoint {folder} {problem}; expected a folder with {CONFIG} and {WEIGHTS}."
        )
    missing = [name for name in (CONFIG, VOCABULARY, WEIGHTS) if not (folder / name).is_file()]
    if CONFIG in missing:
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {CONFIG}. Expected a folder from training."
        )
    if missing:
        raise CheckpointError(
            f"The checkpoint {folder} is incomplete: {' and '.join(missing)} missing. Copy the"
            " whole folder again."
        )


def _read_config(path: Path) -> dict[str, Any]:
    """Read config.json: check the keys of all versions first, then those of this version."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise CheckpointError(
            f"{path} is damaged: invalid JSON: {error}. Copy the whole folder again."
        ) from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if not is_count(version):
        raise CheckpointError(
            f"{path} is not from a captioner checkpoint: it has no format_version."
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, and this captioner ({__version__}) reads up to"
            f" {FORMAT_VERSION}. Update it: pip install --upgrade captioner"
        )
    optional = (key for key, since in _OPTIONAL.items() if version >= since and key in config)
    sections = (*_SECTIONS, *optional)
    unknown = sorted(set(config) - {*_KEYS, *sections})
    missing = [key for key in _KEYS if key not in config]
    if unknown or missing:
        problem = (
            f"has unknown keys: {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        )
        raise CheckpointError(f"{path} {problem}; expected {', '.join(_KEYS)}.")
    for key in sections:
        if not isinstance(config[key], dict):
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; expected a JSON object.")
    _check_temporal(path, config["architecture"], version)
    if not isinstance(config["package_version"], str):
        raise CheckpointError(
            f"{path}: package_version is {config['package_version']!r}; expected a string."
        )
    return config


def _check_temporal(path: Path, architecture: dict[str, Any], version: int) -> None:
    """Check the section of the architecture about the frames of clips."""
    temporal = architecture.get(_TEMPORAL)
    if temporal is None and _TEMPORAL not in architecture:
        return
    frames = temporal.get("frames") if isinstance(temporal, dict) else None
    if version < 3 or not is_count(frames):
        raise CheckpointError(
            f"{path}: architecture.{_TEMPORAL} is {temporal!r}; expected an object that names the"
            " number of frames, in format 3. Copy the whole folder again."
        )


def _check_words(path: Path, vocab_size: int) -> None:
    """Check that a weights file is complete, and that its embedding has a row for every word."""
    shape = weight_shapes(path).get(_EMBEDDING, (vocab_size,))
    words = shape[0] if shape else 0
    if words != vocab_size:
        raise CheckpointError(
            f"{path} is a model of {words} words, and {VOCABULARY} has {vocab_size}. Copy the whole"
            " folder again."
        )


def _oldest_format(config: Mapping[str, Any]) -> int:
    """Return the oldest format that can hold a config, so that older versions read it too."""
    version = max((since for key, since in _OPTIONAL.items() if key in config), default=1)
    named = isinstance(config.get(_TAGS, {}).get("table"), list)  # classes of the user's own
    architecture = config["architecture"]
    decoder = architecture.get("decoder")
    pointing = isinstance(decoder, dict) and decoder.get("pointer", False)
    return 3 if named or pointing or _TEMPORAL in architecture else version


def _as_json(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _replace(folder: Path, temporary: Path, replaced: Path) -> None:
    """Replace `folder` by `temporary`, and move its other files into it."""
    if not folder.exists():
        temporary.rename(folder)
        return
    folder.rename(replaced)
    try:
        temporary.rename(folder)
    except BaseException:
        replaced.rename(folder)
        raise
    for path in replaced.iterdir():
        if path.name not in FILES:
            path.rename(folder / path.name)
    shutil.rmtree(replaced, ignore_errors=True)


def _card_lines(card: Path) -> list[str]:
    """Return the lines of a model card, without YAML front matter."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    return text.strip().splitlines()
