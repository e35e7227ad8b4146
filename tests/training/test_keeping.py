"""While the encoder trains, its classifier stays where it was, if that is asked for."""

import copy
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from scipy.special import rel_entr, softmax

from captioner.errors import ConfigError
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.networks import build_network
from captioner.tags import TagConfig
from captioner.training.frozen_part import FrozenPart
from captioner.training.keeping import OriginalClasses
from captioner.training.optimization import FinetuneConfig
from tests.training.runs import SMALL, SMALL_RESNET, TINY, train_with

SIZE = 64
DECODER = DecoderConfig(hidden_size=8, embedding_size=8, context_size=8, attention_size=8)
# nats of divergence on images that were not trained on; left to itself, the classifier loses over 3
LOSS = 0.8


def make_network(name: str) -> CaptioningModel:
    """One whose classifier is sure of something."""
    torch.manual_seed(0)
    model = CaptioningModel(
        EncoderConfig(name), DECODER, image_size=SIZE, vocab_size=10, tags=TagConfig()
    )
    with torch.no_grad():
        model.classifier.weight.mul_(10)
    return model.eval()


@torch.no_grad()
def check_divergence(
    original: OriginalClasses,
    first: CaptioningModel,
    changed: CaptioningModel,
    pixels: torch.Tensor,
) -> None:
    """The measured divergence is that of the classes' distributions, computed by SciPy."""
    _, forgotten = original.encode(changed, pixels)
    before, after = (
        softmax(model.classes(model.encoder(pixels)).double().numpy(), axis=1)
        for model in (first, changed)
    )
    assert forgotten.item() == pytest.approx(rel_entr(before, after).sum(axis=1).mean(), rel=1e-3)
    assert forgotten.item() > 1e-4


@pytest.mark.parametrize(
    ("name", "stage", "shares"),
    [("resnet18", "layer4", False), ("timm/tf_efficientnet_lite0", "blocks.6", True)],
)
def test_the_divergence_is_that_of_the_distributions(name: str, stage: str, shares: bool) -> None:
    network = make_network(name)
    changed = copy.deepcopy(network).eval()
    original = OriginalClasses(changed, FrozenPart(changed.encoder, [stage]))
    pixels = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        features, forgotten = original.encode(changed, pixels)
        assert forgotten.item() == pytest.approx(0, abs=1e-5)
        torch.testing.assert_close(features, network.encoder(pixels))
        for parameter in changed.encoder.cnn.get_submodule(stage).parameters():
            parameter.mul_(1.05)
    check_divergence(original, network, changed, pixels)
    whole = sum(tensor.nbytes for tensor in network.encoder.state_dict().values())
    assert (original.nbytes < whole / 2) is shares, (
        "frozen stages run once for both where that can be"
    )


@pytest.mark.parametrize("changed_stage", ["blocks.6", "blocks.2"])
def test_the_classifier_of_weights_before_an_earlier_run_is_preserved(
    changed_stage: str, tmp_path: Path
) -> None:
    """Whether what the earlier run changed trains now or not."""
    network = make_network("timm/tf_efficientnet_lite0")
    torch.save(network.encoder.cnn.state_dict(), tmp_path / "first.pth")
    begun = copy.deepcopy(network).eval()
    with torch.no_grad():
        for parameter in begun.encoder.cnn.get_submodule(changed_stage).parameters():
            parameter.mul_(1.05)
    part = FrozenPart(begun.encoder, ["blocks.6"])
    original = OriginalClasses(begun, part, str(tmp_path / "first.pth"))
    check_divergence(original, network, begun, torch.randn(3, 3, SIZE, SIZE))


def test_it_stays_within_its_loss_while_the_encoder_learns_something_else() -> None:
    network, stages = make_network("timm/tf_efficientnet_lite0"), ["blocks.6", "conv_head"]
    random = torch.Generator().manual_seed(1)
    pixels, unseen = (torch.randn(count, 3, SIZE, SIZE, generator=random) for count in (12, 16))
    target = torch.randn(
        12, network.encoder.regions, network.encoder.width, generator=random
    ).relu()
    lost, learnt = {}, {}
    for weight in (0.0, 1.0):
        trained = copy.deepcopy(network).eval()
        original = OriginalClasses(trained, FrozenPart(trained.encoder, stages))
        trained.encoder.unfreeze(stages)
        optimizer = torch.optim.Adam(trained.encoder.trained_parameters(), lr=3e-4)
        for _ in range(20):
            features, forgotten = original.encode(trained, pixels)
            other = (features - target).square().mean()
            loss = other + weight * forgotten
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            lost[weight] = original.encode(trained, unseen)[1].item()
            learnt[weight] = ((network.encoder(pixels) - target).square().mean() - other).item()
    assert lost[1.0] < LOSS < 3 < lost[0.0]
    assert learnt[1.0] > learnt[0.0] / 2 > 0, "it learns what it is asked to all the same"


class Watch(Callback):
    """Keeps what a run logs of each step."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.kept += [
            float(value)
            for name, value in trainer.logged_metrics.items()
            if name.startswith("train/kept")
        ]


def test_a_run_keeps_the_classifier_of_its_weights(tmp_path) -> None:
    torch.manual_seed(0)
    whole = build_network(SMALL_RESNET, SIZE)
    torch.save(whole.state_dict(), "weights.pth")
    options = [
        f"--config={TINY}",
        *SMALL,
        "--data.draw_shapes=24",
        "--data.cache_features=0",
        f"--model.encoder.name={SMALL_RESNET}",
        "--model.weights=weights.pth",
        "--model.finetune={stages: [layer4], learning_rate: 1e-4}",
        "--trainer.max_epochs=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.default_root_dir=run",
    ]
    watch = Watch()
    assert train_with(watch, options) == 0
    assert watch.kept
    assert watch.kept[0] == pytest.approx(0, abs=1e-4)
    assert max(watch.kept) > 0
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert config["tags"] == {"table": "imagenet", "temperature": 1.0}
    stored = load_file(tmp_path / "run" / "best" / "model.safetensors")
    torch.testing.assert_close(stored["classifier.weight"], whole.fc.weight.detach().half())
    torch.testing.assert_close(stored["classifier.bias"], whole.fc.bias.detach().half())


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep_classifier is -1; expected a weight of 0 or more"):
        FinetuneConfig(keep_classifier=-1)
