"""Explain captions: maps of where the model looked, and words without visual evidence.

from captioner.explain import explain, find_evidence

explain(captioner, "photo.jpg").save("figure.png")
find_evidence(captioner, captioner.caption("photo.jpg"))[0].pmi
"""

from captioner.explain.evidence import Evidence, find_evidence
from captioner.explain.explanation import METHODS, Explanation, Method, check_output, explain
from captioner.explain.maps import attention_map, heat, photo_seen

__all__ = [
    "METHODS",
    "Evidence",
    "Explanation",
    "Method",
    "attention_map",
    "check_output",
    "explain",
    "find_evidence",
    "heat",
    "photo_seen",
]
