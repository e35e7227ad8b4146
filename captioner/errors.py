"""All errors that a user can cause.

    CaptionerError
    ├── ImageError          an image that cannot be read
    │   └── VideoError      a clip that cannot be read
    ├── CheckpointError     a checkpoint folder that is missing, damaged, foreign or too new
    ├── DataError           annotations, captions or results that cannot be used
    ├── ConfigError         an option that is unknown, out of range or conflicts with another
    └── MissingExtraError   a command whose optional packages are not installed

A message says what was wrong, what was expected and what to do next, in one or two sentences.
Commands print it without a traceback; a library user catches `CaptionerError`, or the kind they can
act on.
"""


class CaptionerError(Exception):
    """Base of all errors that a user can cause; never raised itself."""


class ImageError(CaptionerError):
    """An image that cannot be read.

    Args:
        name: What to call the image: its path, or "image 3 (bytes)" for one without a path.
        reason: What was wrong with it, as the end of the sentence "NAME: ...".
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class VideoError(ImageError):
    """A clip that cannot be read; skipped wherever unreadable images are skipped."""


class CheckpointError(CaptionerError):
    """A checkpoint folder that is missing, damaged, foreign or written by a newer version."""


class DataError(CaptionerError):
    """Annotations, captions or results that cannot be used."""


class ConfigError(CaptionerError):
    """An option that is unknown, out of range or conflicts with another."""


class MissingExtraError(CaptionerError):
    """A command whose optional packages are not installed.

    Args:
        what: What needs the packages, as the subject of a sentence: "Training".
        extra: The extra that installs them: "train".
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed. Install them: pip install"
            f" 'captioner[{extra}]'"
        )
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        return type(self), (self.what, self.extra)
