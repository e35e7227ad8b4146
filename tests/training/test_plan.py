"""The plan of a run: what it says against what the run then does."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from captioner.data.datamodule import CaptionData
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.preprocessing import Preprocessing
from captioner.training.lightning_module import CaptioningModule
from captioner.training.optimization import FinetuneConfig
from captioner.training.plan import PrintPlan, describe_plan
from tests.training.runs import SMALL_RESNET

SMALL = DecoderConfig(hidden_size=20, embedding_size=12, context_size=16, attention_size=8)


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


def fit(
    data: CaptionData, finetune: FinetuneConfig, encoder: str = SMALL_RESNET, **options: Any
) -> tuple[Trainer, CaptioningModule]:
    module = CaptioningModule(
        data.vocabulary,
        data.preprocessing,
        encoder=EncoderConfig(encoder),
        decoder=SMALL,
        finetune=finetune,
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


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_steps": 2}, "any number of 5 steps, 2 in all"),
        ({"max_time": {"hours": 1}}, "any number of 5 steps"),
    ],
)
def test_a_run_that_steps_or_time_end_has_any_number_of_epochs(
    data: CaptionData, limit: dict[str, Any], said: str
) -> None:
    class Stop(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: CaptioningModule) -> None:
            trainer.should_stop = True

    plan = Plan()
    fit(data, FinetuneConfig(), max_epochs=-1, callbacks=[plan, Stop()], **limit)
    assert plan.line("epochs") == said


def test_the_plan_says_what_the_run_does(data: CaptionData) -> None:
    data.views = 1
    plan = Plan()
    trainer, module = fit(
        data,
        FinetuneConfig(["layer4"], from_epoch=1),
        "resnet18",  # large enough for megabytes
        max_epochs=2,
        accumulate_grad_batches=2,
        callbacks=[plan, EMAWeightAveraging()],
    )
    network = module.network

    matrices = sum(p.numel() for p in network.decoder.parameters() if p.ndim > 1)
    assert plan.line("decoder").split() == [f"{matrices:,}", "0.001", "0.01", "from", "epoch", "0"]
    kernels = sum(
        m.weight.numel() for m in network.encoder.cnn.layer4.modules() if isinstance(m, nn.Conv2d)
    )
    assert plan.line("encoder").split() == [f"{kernels:,}", "1e-05", "0.01", "from", "epoch", "1"]
    total = sum(p.numel() for p in network.parameters())
    trained = sum(
        p.numel() for p in network.parameters() if p.requires_grad
    )  # layer4 trains by now
    assert numbers(plan.line("frozen, of the encoder")) == [total - trained]
    assert numbers(plan.line("whole network")) == [total, trained]

    assert numbers(plan.line("epochs")) == [
        2,
        3,
        trainer.global_step,
    ]  # 5 batches an epoch, two a step
    assert numbers(plan.line("images per step")) == [16, 8, 1, 2]
    assert plan.line("average with start") == "none"
    assert numbers(plan.line("learning rate")) == [200, 0.05]

    assert numbers(plan.line("train")) == [40, 120]
    assert numbers(plan.line("val")) == [10, 30]
    assert numbers(plan.line("vocabulary")) == [len(data.vocabulary)]
    assert plan.line("features").startswith("cached")

    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    assert (
        numbers(plan.line("weights"))
        == numbers(plan.line("averaged weights"))
        == [megabytes(weights)] * 2
    )
    gradients = sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
    assert numbers(plan.line("gradients")) == [0, megabytes(gradients)]
    states = trainer.optimizers[0].state.values()
    moments = sum(state[key].nbytes for state in states for key in ("exp_avg", "exp_avg_sq"))
    assert numbers(plan.line("AdamW's two moments")) == [0, megabytes(moments)]
    parts = [
        "weights",
        "gradients",
        "AdamW's two moments",
        "averaged weights",
        "kept for backward of 8 images",
    ]
    columns = zip(*(numbers(plan.line(part)) for part in parts), strict=True)
    assert numbers(plan.line("in all")) == pytest.approx([sum(column) for column in columns], abs=2)


def test_a_frozen_encoder_has_one_column_of_memory_and_the_plan_is_logged(
    data: CaptionData, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan()
    with caplog.at_level(logging.INFO, "captioner.training.plan"):
        _, module = fit(data, FinetuneConfig(), max_epochs=1, callbacks=[plan, PrintPlan()])
    assert [
        record.getMessage() for record in caplog.records if record.name == "captioner.training.plan"
    ] == [plan.text]
    encoder = sum(p.numel() for p in module.network.encoder.parameters())
    assert numbers(plan.line("frozen, of the encoder")) == [encoder]
    assert len(numbers(plan.line("weights"))) == 1
    assert plan.line("features") == "computed at each step"
    assert "averaged weights" not in plan.text


def test_where_the_encoder_trains_from_the_first_epoch_there_is_no_other_stage(
    data: CaptionData,
) -> None:
    plan = Plan()
    fit(data, FinetuneConfig(["layer4"], from_epoch=0), max_epochs=1, callbacks=[plan])
    assert len(numbers(plan.line("weights"))) == 1
    assert "frozen encoder" not in plan.text
