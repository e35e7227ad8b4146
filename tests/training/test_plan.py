"""The plan of a run: what it says against what the run then does, and memory against memory that is really held."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from captioner.data.datamodule import CaptionData
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DECODERS, DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.preprocessing import Preprocessing
from captioner.training.lightning_module import CaptioningModule
from captioner.training.optimization import FinetuneConfig
from captioner.training.plan import PrintPlan, describe_plan, kept_for_backward

SMALL = DecoderConfig(hidden_size=20, embedding_size=12, context_size=16, attention_size=8)

# --- Memory kept for backward ---


def perceptron(frozen: bool = False) -> nn.Module:
    first = nn.Linear(10, 30).requires_grad_(not frozen)
    return nn.Sequential(first, nn.Tanh(), nn.Dropout(0.5), nn.Linear(30, 4))


@pytest.mark.parametrize("batch", [1, 2, 500_000_000])
def test_what_is_kept_of_a_perceptron_can_be_counted_by_hand(batch: int) -> None:
    # In floats: the input (10), what tanh gives (30), the dropout's mask (30) and what it leaves (30).
    assert kept_for_backward(perceptron(), (batch, 10), lambda net, x: net(x)) == batch * 4 * (10 + 30 + 30 + 30)
    # Nothing before the last layer needs a gradient: its own input is kept, and the network's, which is there anyway.
    assert kept_for_backward(perceptron(frozen=True), (batch, 10), lambda net, x: net(x)) == batch * 4 * (10 + 30)


def test_autocast_is_heeded() -> None:
    context = torch.autocast("cpu", torch.bfloat16)
    model = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 4, bias=False))
    # In bfloat16: the input, what tanh gives, the last layer's weights; in float32: the input as it came.
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
    """All that asking for the memory might change: weights, BatchNorm's statistics, what trains, the random state."""
    flags = [parameter.requires_grad for parameter in model.parameters()] + [m.training for m in model.modules()]
    return [*(tensor.clone() for tensor in model.state_dict().values()), torch.tensor(flags), torch.get_rng_state()]


@pytest.mark.parametrize("stages", [[], ["layer4"], ["all"]])
@pytest.mark.parametrize("name", DECODERS)
def test_it_is_the_memory_that_a_real_forward_pass_holds(name: str, stages: list[str]) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(name, hidden_size=20, embedding_size=12, context_size=16, attention_size=8)
    model = CaptioningModel(EncoderConfig("resnet18"), config, image_size=64, vocab_size=50).train()
    captions = torch.tensor([[[1, 5, 6, 7, 2], [1, 5, 2, 0, 0]], [[1, 8, 9, 2, 0], [0, 0, 0, 0, 0]]])

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


# --- The plan ---


class Plan(Callback):
    """Keeps the plan."""

    def on_train_start(self, trainer: Trainer, pl_module: CaptioningModule) -> None:
        self.text = describe_plan(trainer, pl_module)

    def line(self, title: str) -> str:
        (line,) = re.findall(rf"^  {re.escape(title)}  +(.*)$", self.text, re.MULTILINE)
        return str(line)


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,.e-]*", text)]


def megabytes(size: int) -> int:
    return round(size / 1e6)


@pytest.fixture
def data(tmp_path: Path) -> CaptionData:
    annotations = tmp_path / "shapes" / "annotations"
    return CaptionData(
        annotations / "captions_train.json",
        annotations / "captions_val.json",
        tmp_path / "shapes" / "images",
        draw_shapes=50,
        batch_size=8,
        workers=0,
        min_count=1,
        preprocessing=Preprocessing(size=64),
        cache_folder=tmp_path / "features",
    )


def fit(data: CaptionData, finetune: FinetuneConfig, **options: Any) -> tuple[Trainer, CaptioningModule]:
    module = CaptioningModule(
        data.vocabulary, data.preprocessing, encoder=EncoderConfig("resnet18"), decoder=SMALL, finetune=finetune
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu",
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **quiet,
        **options,
    )
    trainer.fit(module, data)
    return trainer, module


def moments(trainer: Trainer) -> int:
    """Bytes of AdamW's moments."""
    states = trainer.optimizers[0].state.values()
    return sum(state[key].nbytes for state in states for key in ("exp_avg", "exp_avg_sq"))


def test_the_plan_says_what_the_run_does(data: CaptionData) -> None:
    data.views = 1
    plan = Plan()
    trainer, module = fit(
        data,
        FinetuneConfig(["layer4"], from_epoch=1),
        max_epochs=2,
        accumulate_grad_batches=2,
        callbacks=[plan, EMAWeightAveraging()],
    )
    network = module.network

    matrices = sum(p.numel() for p in network.decoder.parameters() if p.ndim > 1)
    assert plan.line("decoder").split() == [f"{matrices:,}", "0.001", "0.01", "from", "epoch", "0"]
    kernels = sum(m.weight.numel() for m in network.encoder.cnn.layer4.modules() if isinstance(m, nn.Conv2d))
    assert plan.line("encoder").split() == [f"{kernels:,}", "1e-05", "0.01", "from", "epoch", "1"]
    total = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)  # layer4 trains by now
    assert numbers(plan.line("frozen, of the encoder")) == [total - trained]
    assert numbers(plan.line("whole network")) == [total, trained]

    assert numbers(plan.line("epochs")) == [2, 3, trainer.global_step]  # 5 batches an epoch, two a step
    assert numbers(plan.line("images a step")) == [16, 8, 1, 2]
    assert numbers(plan.line("learning rate")) == [200, 0.05]

    assert numbers(plan.line("train")) == [40, 120]
    assert numbers(plan.line("val")) == [10, 30]
    assert numbers(plan.line("vocabulary")) == [len(data.vocabulary)]
    assert plan.line("features").startswith("cached")

    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    assert numbers(plan.line("weights")) == numbers(plan.line("averaged weights")) == [megabytes(weights)] * 2
    gradients = sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
    assert numbers(plan.line("gradients")) == [0, megabytes(gradients)]
    states = trainer.optimizers[0].state.values()
    moments = sum(state[key].nbytes for state in states for key in ("exp_avg", "exp_avg_sq"))
    assert numbers(plan.line("AdamW's two moments")) == [0, megabytes(moments)]
    parts = ["weights", "gradients", "AdamW's two moments", "averaged weights", "kept for backward of 8 images"]
    columns = zip(*(numbers(plan.line(part)) for part in parts), strict=True)
    assert numbers(plan.line("in all")) == pytest.approx([sum(column) for column in columns], abs=2)


def test_a_frozen_encoder_has_one_column_of_memory_and_the_plan_is_logged(
    data: CaptionData, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan()
    with caplog.at_level(logging.INFO, "captioner.training.plan"):
        _, module = fit(data, FinetuneConfig(), max_epochs=1, callbacks=[plan, PrintPlan()])
    assert [record.getMessage() for record in caplog.records if record.name == "captioner.training.plan"] == [plan.text]
    encoder = sum(p.numel() for p in module.network.encoder.parameters())
    assert numbers(plan.line("frozen, of the encoder")) == [encoder]
    assert len(numbers(plan.line("weights"))) == 1
    assert plan.line("features") == "computed at each step"
    assert "averaged weights" not in plan.text


def test_where_the_encoder_trains_from_the_first_epoch_there_is_no_other_stage(data: CaptionData) -> None:
    plan = Plan()
    fit(data, FinetuneConfig(["layer4"], from_epoch=0), max_epochs=1, callbacks=[plan])
    assert len(numbers(plan.line("weights"))) == 1
    assert "frozen encoder" not in plan.text
