"""Memory that a forward pass keeps for backward, against memory that is really held."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DECODERS, DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.training.memory import kept_for_backward

TRAINED = [["layer4"], ["all"]]  # stages of the encoder


def perceptron(frozen: bool = False) -> nn.Module:
    first = nn.Linear(10, 30).requires_grad_(not frozen)
    return nn.Sequential(first, nn.Tanh(), nn.Dropout(0.5), nn.Linear(30, 4))


@pytest.mark.parametrize("batch", [1, 2, 500_000_000])
def test_what_is_kept_of_a_perceptron_can_be_counted_by_hand(batch: int) -> None:
    # In floats: the input (10), what tanh gives (30), the dropout's mask (30) and what it leaves
    # (30).
    assert kept_for_backward(perceptron(), (batch, 10), lambda net, x: net(x)) == batch * 4 * (
        10 + 30 + 30 + 30
    )
    # Nothing before the last layer needs a gradient: its own input is kept, and the network's,
    # which is there anyway.
    assert kept_for_backward(
        perceptron(frozen=True), (batch, 10), lambda net, x: net(x)
    ) == batch * 4 * (10 + 30)


def test_autocast_is_heeded() -> None:
    context = torch.autocast("cpu", torch.bfloat16)
    model = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 4, bias=False))
    # In bfloat16: the input, what tanh gives, the last layer's weights; in float32: the input as it
    # came.
    expected = 7 * 2 * (10 + 30) + 2 * 4 * 30 + 7 * 4 * 10
    assert kept_for_backward(model, (7, 10), lambda net, x: net(x), context) == expected


class Storages(TorchDispatchMode):
    """Remembers, weakly, all memory that operations gave their results."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def held(self) -> int:
        return sum(size for reference, size in self.seen.values() if not reference.expired())


def state_of(model: nn.Module) -> list[Tensor]:
    """Everything that estimating memory might change: weights, statistics, modes, random state."""
    flags = [parameter.requires_grad for parameter in model.parameters()] + [
        m.training for m in model.modules()
    ]
    return [
        *(tensor.clone() for tensor in model.state_dict().values()),
        torch.tensor(flags),
        torch.get_rng_state(),
    ]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        *((name, []) for name in DECODERS),
        *(("show_attend_tell", stages) for stages in TRAINED),
        *(
            pytest.param(name, stages, marks=pytest.mark.slow)
            for name in DECODERS
            for stages in TRAINED
            if name != "show_attend_tell"
        ),
    ],
)
def test_it_is_the_memory_that_a_real_forward_pass_holds(name: str, stages: list[str]) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(
        name, hidden_size=20, embedding_size=12, context_size=16, attention_size=8
    )
    model = CaptioningModel(EncoderConfig("resnet18"), config, image_size=64, vocab_size=50).train()
    captions = torch.tensor(
        [[[1, 5, 6, 7, 2], [1, 5, 2, 0, 0]], [[1, 8, 9, 2, 0], [0, 0, 0, 0, 0]]]
    )

    def compute(network: CaptioningModel, images: Tensor) -> Tensor:
        network.encoder.unfreeze(stages, freeze_batchnorm=False)
        output = network(images, captions)
        return nn.functional.cross_entropy(output.logits, output.targets)

    before = state_of(model)
    expected = kept_for_backward(model, (2, 3, 64, 64), compute)
    assert all(torch.equal(one, other) for one, other in zip(before, state_of(model), strict=True))

    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    with Storages() as storages:
        images = torch.randn(2, 3, 64, 64)
        loss = compute(model, images)
    for key in own:
        storages.seen.pop(key, None)
    assert loss.requires_grad
    assert expected == pytest.approx(storages.held(), rel=0.02)
