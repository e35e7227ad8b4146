"""Small models of clips with random weights."""

from pathlib import Path

import torch

from captioner.decoding import DecodingOptions
from captioner.events.config import EventConfig
from captioner.export import save_checkpoint
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.temporal import TemporalConfig
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.model.decoders import enlarge

WORDS = "a the red blue circle square moves turns left"
SIZE = 12
VOCABULARY = Vocabulary([*SPECIAL_WORDS, *WORDS.split()])


def save_clip_model(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    onnx: bool = True,
    events: EventConfig | None = None,
    **options: object,
) -> Path:
    """A checkpoint folder of a small model of clips with random weights."""
    torch.manual_seed(seed)
    model = CaptioningModel(
        EncoderConfig("plain_cnn"),
        DecoderConfig(hidden_size=16, embedding_size=12, context_size=8, attention_size=8),
        image_size=SIZE,
        vocab_size=len(VOCABULARY),
        temporal=TemporalConfig(name, frames=3, hidden_size=8, region_size=4, **options),
        events=events,
    )
    for part in (model.decoder, model.temporal, model.event_head):
        if part is not None:
            enlarge(part, 3)
    save_checkpoint(
        folder,
        model,
        vocabulary=VOCABULARY,
        preprocessing=Preprocessing(size=SIZE),
        decoding=DecodingOptions(beam_size=3, max_length=6),
        card="# A tiny model of clips\n",
        onnx=onnx,
    )
    return folder
