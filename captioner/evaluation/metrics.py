"""BLEU, ROUGE-L and CIDEr-D of tokenised captions, equal to the official COCO scorer's numbers.

Captions come as token lists by image id, for example from `captioner.tokenizer.tokenize`; scores are
fractions (BLEU-4 of 0.25 is published as 25), CIDEr-D lies between 0 and 10. METEOR and SPICE, which need Java, are in
`captioner.evaluation.java`.
"""

from captioner.evaluation.bleu import bleu, bleu_counts, bleu_from_counts
from captioner.evaluation.cider import CiderD, cider_d
from captioner.evaluation.rouge import rouge_l

__all__ = ["CiderD", "bleu", "bleu_counts", "bleu_from_counts", "cider_d", "rouge_l"]
