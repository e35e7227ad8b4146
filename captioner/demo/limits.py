"""Limits on visitors' requests; `captioner.images` limits a photo's pixels."""

from collections.abc import Mapping
from typing import Any

from captioner.decoding.options import decoding_options
from captioner.errors import ConfigError

UPLOAD_SIZE = 20 * 2**20
"""Bytes of a photo or a clip, one in each request."""
LONGEST_CLIP = 600
"""Seconds of a clip."""
REQUEST_SIZE = 64 * 2**10
"""Bytes of any other request: photos are uploaded on their own."""
QUEUE_LENGTH = 30
"""Requests in the queue; further requests are rejected."""
AT_ONCE = 2
"""Concurrent requests, so that a large photo doesn't block the next visitor."""
LONGEST_VISIT = 3600
"""Seconds after which a photo is deleted even if its visitor was not seen to leave."""
LONGEST_WORD = 100
"""Characters of a word or phrase in a decoding option: reading longer ones takes too long."""
LONGEST_CORRECTION = 200
"""Characters of a visitor's better caption."""
MOST_CORRECTIONS = 5000
"""Corrections saved at most, so that visitors cannot fill the disk."""
KEPT_SIZE = 1024
"""Pixels of the longer side of a photo saved with its correction."""

LARGEST = {
    option.name: option.public_limit
    for option in decoding_options()
    if option.public_limit is not None
}
"""Larger values of decoding options, or longer lists, would let one visitor occupy the machine."""


def check_options(options: Mapping[str, Any]) -> None:
    """Reject options above this server's limits; `DecodingOptions` checks everything else.

    Raises:
        ConfigError: An option is too large, or a word is none.
    """
    for name, most in LARGEST.items():
        value = options.get(name)
        if isinstance(value, (int, float)) and value > most:
            raise ConfigError(f"{name} is {value}; this demo allows at most {most}.")
        if isinstance(value, (list, tuple)) and len(value) > most:
            raise ConfigError(f"{name} has {len(value)} words; this demo allows at most {most}.")
        for word in value if isinstance(value, (list, tuple)) else ():
            if not isinstance(word, str):  # such as a list of more words
                raise ConfigError(f"{name} is {value!r}; expected a list of words.")
            if len(word) > LONGEST_WORD:
                raise ConfigError(
                    f"{name} has a word of {len(word):,} characters; this demo allows at most"
                    f" {LONGEST_WORD}."
                )
