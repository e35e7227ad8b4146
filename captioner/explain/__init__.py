"""Why a model said each word: maps over the photo, as arrays, pictures, a figure or a page.

from captioner.explain import explain

explain(captioner, "photo.jpg").save("figure.png")
"""

from captioner.explain.explanation import METHODS, Explanation, Method, check_output, explain
from captioner.explain.maps import attention_map, heat, photo_seen

__all__ = [
    "METHODS",
    "Explanation",
    "Method",
    "attention_map",
    "check_output",
    "explain",
    "heat",
    "photo_seen",
]
