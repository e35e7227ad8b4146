"""What a run begins with: the classifier of its encoder's weights, where there is one that fits."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from captioner.decoding import DecodingOptions
from captioner.export import save_checkpoint
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.networks import build_network
from captioner.preprocessing import Preprocessing
from captioner.tags import TagConfig
from captioner.training.network import continued_network, new_network
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.training.runs import SMALL_RESNET

SIZE = 64
VOCABULARY = Vocabulary([*SPECIAL_WORDS, "a", "dog"])
DECODER = DecoderConfig(hidden_size=8, embedding_size=8, context_size=8, attention_size=8)


def saved(name: str, folder: Path) -> tuple[nn.Module, str]:
    """A whole network with random weights, and its file."""
    torch.manual_seed(0)
    network = build_network(name, SIZE).eval()
    torch.save(network.state_dict(), folder / "weights.pth")
    return network, str(folder / "weights.pth")


def test_the_classifier_of_the_weights_is_kept_and_travels_in_checkpoints(tmp_path: Path) -> None:
    whole, weights = saved(SMALL_RESNET, tmp_path)
    network = new_network(
        EncoderConfig(SMALL_RESNET), DECODER, SIZE, VOCABULARY, weights=weights, tags=True
    ).eval()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        scores = network.classes(network.encoder(pixels))
        torch.testing.assert_close(scores, whole(pixels), rtol=1e-3, atol=1e-3)
    assert network.tags == TagConfig()
    assert not any(parameter.requires_grad for parameter in network.classifier.parameters())

    network.tags = TagConfig(temperature=1.7)
    folder = str(tmp_path / "model")
    save_checkpoint(
        Path(folder),
        network,
        vocabulary=VOCABULARY,
        preprocessing=Preprocessing(size=SIZE),
        decoding=DecodingOptions(),
        card="",
        onnx=False,
    )
    begun = new_network(
        EncoderConfig(SMALL_RESNET), DECODER, SIZE, VOCABULARY, weights=folder, tags=True
    )
    for other in (begun, continued_network(folder, VOCABULARY, 0.1)):
        assert other.tags == network.tags
        torch.testing.assert_close(
            other.classifier.weight, network.classifier.weight, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            other.classifier.bias, network.classifier.bias, rtol=1e-3, atol=1e-4
        )
    assert continued_network(folder, VOCABULARY, 0.1, tags=False).classifier is None
    untagged = new_network(EncoderConfig(SMALL_RESNET), DECODER, SIZE, VOCABULARY, weights=folder)
    assert untagged.tags is untagged.classifier is None


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (EncoderConfig("squeezenet1_1"), "classifier is not a single linear layer"),
        (
            EncoderConfig(SMALL_RESNET, grid=3),
            "A grid of 3 x 3 regions weights the CNN's feature map",
        ),
    ],
)
def test_where_no_classifier_fits_the_log_says_why(
    encoder: EncoderConfig, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, weights = saved(encoder.name, tmp_path)
    with caplog.at_level(logging.INFO, "captioner"):
        network = new_network(encoder, DECODER, SIZE, VOCABULARY, weights=weights, tags=True)
    assert network.classifier is None
    assert "The model will have no tags: " in caplog.text
    assert said in caplog.text
