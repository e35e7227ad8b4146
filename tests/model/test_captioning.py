"""New words in a trained network: old outputs are unchanged, bit for bit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DECODERS
from captioner.model.encoder import EncoderConfig
from tests.model.decoders import CAPTIONS, TINY, V, by_place, enlarge, make_features

NEW = 6
ENCODER = EncoderConfig("squeezenet1_1")

both_ties = pytest.mark.parametrize("tie_embedding", [True, False])
every_decoder = pytest.mark.parametrize("name", DECODERS)


def make_model(name: str, tie_embedding: bool) -> CaptioningModel:
    torch.manual_seed(3)
    config = replace(TINY, name=name, tie_embedding=tie_embedding)
    model = CaptioningModel(ENCODER, config, image_size=64, vocab_size=V)
    enlarge(model.decoder)
    with torch.no_grad():
        model.decoder.output.bias.normal_()
    return model.eval()


def features_for(model: CaptioningModel) -> Tensor:
    regions = make_features()
    return regions.repeat(1, 1, model.encoder.width // regions.shape[2] + 1)[
        :, :, : model.encoder.width
    ]


@every_decoder
@both_ties
def test_old_words_keep_their_rows_and_their_log_odds(name: str, tie_embedding: bool) -> None:
    model = make_model(name, tie_embedding)
    features = features_for(model)
    old = {key: tensor.clone() for key, tensor in model.decoder.state_dict().items()}
    with torch.no_grad():
        before = by_place(model.decoder(features, CAPTIONS), CAPTIONS)
        model.enlarge_vocabulary(V + NEW)
        after = by_place(model.decoder(features, CAPTIONS), CAPTIONS)

    assert before.keys() == after.keys()
    for place, logits in before.items():
        assert len(after[place]) == V + NEW
        torch.testing.assert_close(after[place][:V], logits, rtol=0, atol=1e-5)
        # The mean of the old rows gives the mean of the old log-odds: a new word is neither wanted
        # nor ruled out.
        torch.testing.assert_close(after[place][V:], logits.mean().expand(NEW), rtol=0, atol=1e-5)
    for key, tensor in model.decoder.state_dict().items():
        assert torch.equal(tensor[: len(old[key])], old[key]), key


@every_decoder
@both_ties
def test_an_enlarged_network_is_one_of_its_size(name: str, tie_embedding: bool) -> None:
    """It saves into one that was built so large, and its new rows train, tied or not."""
    model = make_model(name, tie_embedding)
    model.enlarge_vocabulary(V + NEW)
    built = CaptioningModel.from_architecture(
        model.architecture(), image_size=64, vocab_size=V + NEW
    )
    built.load_portable_state(model.portable_state())
    captions = CAPTIONS.masked_fill(
        CAPTIONS == 9, V + NEW - 1
    )  # a new word, among the inputs and the targets
    features = features_for(model)
    output = model.decoder(features, captions)
    assert torch.equal(built.eval().decoder(features, captions).logits, output.logits)

    torch.nn.functional.cross_entropy(output.logits, output.targets).backward()
    for parameter in (
        model.decoder.embedding.weight,
        model.decoder.output.weight,
        model.decoder.output.bias,
    ):
        assert parameter.requires_grad
        assert parameter.grad is not None and parameter.grad[V + NEW - 1].any()
    assert (model.decoder.output.weight is model.decoder.embedding.weight) is tie_embedding
    assert (model.decoder.embedding.num_embeddings, model.decoder.output.out_features) == (
        V + NEW,
        V + NEW,
    )


def test_no_new_words_change_nothing() -> None:
    model = make_model("show_attend_tell", True)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.enlarge_vocabulary(V)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
