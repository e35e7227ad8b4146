"""The average with the weights at the start: its arithmetic, and that training goes on as if
there were none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from captioner import Captioner
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import WEIGHTS, read_checkpoint
from captioner.events.config import EventConfig
from captioner.model.captioning import CaptioningModel
from captioner.training.averaging import StartAverage
from captioner.training.train import main
from tests.clip_models import VOCABULARY, save_clip_model
from tests.training.domains import NEW, NEW_WORDS, draw_domain
from tests.training.runs import QUICK, ROOT, last_checkpoint, train_with
from tests.training.test_resume import Stop

FINETUNE = f"--config={ROOT / 'configs' / 'finetune.yaml'}"
OPTIONS = [
    FINETUNE,
    *QUICK,
    "--model.decoding={beam_size: 1, max_length: 8}",
    "--trainer.logger=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.max_epochs=2",
    "--data.cache_features=0",
    "--model.learning_rate=2e-2",
    "--model.warmup_steps=1",
]
ENCODER = ["--model.finetune={stages: [features.12], from_epoch: 0, learning_rate: 1e-2}"]
NO_EMA = ["--trainer.callbacks=[]"]


@pytest.fixture
def options(checkpoint_folder: Path) -> list[str]:
    """A short run on drawn photos, whose captions have new words, as the config has it."""
    table = draw_domain(Path("photos"), NEW, 24)
    return [*OPTIONS, f"--model.init_from={checkpoint_folder}", f"--data.train={table}"]


def run(options: list[str], folder: str, *more: str) -> dict[str, Any]:
    """Train; return the last Lightning checkpoint."""
    assert main([*options, f"--trainer.default_root_dir={folder}", *more]) == 0
    return last_checkpoint(folder)


def trained(checkpoint: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights of the network that the run would save without an average with the start."""
    return {
        name.removeprefix("network."): tensor.numpy()
        for name, tensor in checkpoint["state_dict"].items()
    }


@pytest.mark.parametrize(
    ("share", "more"),
    [("0.3", []), ("0.3", [*NO_EMA, *ENCODER])],
    ids=["the mean of steps, the decoder", "the last step, the encoder too"],
)
def test_what_is_validated_and_saved_is_the_average(
    share: str, more: list[str], options: list[str], checkpoint_folder: Path
) -> None:
    last = run(
        options, "run", f"--model.average_with_start={share}", *more, "--trainer.max_epochs=1"
    )
    old, best = load_file(checkpoint_folder / WEIGHTS), load_file(Path("run/best") / WEIGHTS)
    weights, averages, moved = trained(last), {}, set()
    for name, tensor in best.items():
        own, start = weights[name].astype(np.float64), old[name].astype(np.float64)
        rows = len(start)
        expected = float(share) * own[:rows] + (1 - float(share)) * start
        averages[name] = np.concatenate([expected, own[rows:]])
        np.testing.assert_allclose(tensor, averages[name], rtol=1e-3, atol=1e-6, err_msg=name)
        if np.abs(expected - own[:rows]).max() > 1e-3:
            moved.add(name.partition(".")[0])
    assert moved == ({"decoder", "encoder"} if more == [*NO_EMA, *ENCODER] else {"decoder"})

    words, learned = (read_checkpoint(of).vocabulary for of in (checkpoint_folder, "run/best"))
    assert set(learned.words[len(words) :]) >= NEW_WORDS
    assert len(best["decoder.embedding.weight"]) == len(learned)

    validated = json.loads(Path("run/validation.json").read_text())
    said = {each["image_id"]: each["caption"] for each in validated}
    paths = [Path("photos") / name for name in said]
    assert caption_by(averages, paths) == list(said.values())
    assert caption_by(weights, paths) != list(said.values())


def caption_by(weights: dict[str, np.ndarray], paths: list[Path]) -> list[str]:
    """Captions of the run's network with these weights, which no file has rounded."""
    captioner = Captioner.from_pretrained("run/best", backend="torch")
    state = {name: torch.from_numpy(np.float32(each)) for name, each in weights.items()}
    assert isinstance(captioner.backend, TorchBackend)
    captioner.backend.model.load_state_dict(state, strict=False)
    return [caption.text for caption in captioner.caption(paths)]


def test_training_goes_on_as_without_it(options: list[str]) -> None:
    """Weights, their mean over steps and the optimizer are the same, bit for bit."""
    averaged = run(options, "averaged")
    plain = run(options, "plain", "--model.average_with_start=null")
    for key in ("state_dict", "current_model_state", "optimizer_states", "averaging_state"):
        assert_same(averaged[key], plain[key])
    assert "average_with_start" not in plain
    assert any(
        not np.array_equal(one, two)
        for one, two in zip(best("averaged").values(), best("plain").values(), strict=True)
    )


def best(folder: str) -> dict[str, np.ndarray]:
    return load_file(Path(folder) / "best" / WEIGHTS)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    else:
        assert one == other


def test_a_resumed_run_averages_with_the_same_start(
    options: list[str], checkpoint_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if another start and another share are given by then: the run began without them."""
    whole = run(options, "whole")
    parts = [*options, "--trainer.default_root_dir=parts"]
    assert train_with(Stop(after=1), parts) == 0
    other = [
        "--model.init_from=parts/best",
        "--data.min_count=1",
        "--model.average_with_start=0.9",
    ]
    assert main([*parts, *other, "--ckpt_path=last"]) == 0
    assert "model.average_with_start is 0.9 now and was 0.5" in caplog.text
    assert "average with start  0.5 trained weights, 0.5 of the start" in caplog.text
    resumed = last_checkpoint("parts")
    for key in ("state_dict", "current_model_state", "average_with_start"):
        assert_same(resumed[key], whole[key])
    assert_same(
        {name: torch.from_numpy(value) for name, value in best("parts").items()},
        {name: torch.from_numpy(value) for name, value in best("whole").items()},
    )
    card = Path("parts/best/README.md").read_text()
    assert "- Average of weights: 0.5 after training, 0.5 before (WiSE-FT)." in card


@pytest.mark.parametrize("labels", [("turns",), ("moves",)])
def test_a_new_head_of_events_keeps_its_trained_weights(
    labels: tuple[str, ...], tmp_path: Path
) -> None:
    folder = save_clip_model(
        tmp_path / "clips", "lrcn", onnx=False, events=EventConfig(("turns",), 1.0)
    )
    network = network_of(folder)
    network.tell_events(EventConfig(labels, 1.0))
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    average = StartAverage.begin(0.25, str(folder), network, encoder=False)
    average.apply(network)
    for name, parameter in network.named_parameters():
        new = name.startswith("event_head") and labels == ("moves",)
        kept = new or name.startswith("encoder")
        torch.testing.assert_close(parameter.data, start[name] + (1 if kept else 0.25))
    assert average.nbytes == sum(tensor.nbytes for tensor in average.weights.values())


def network_of(folder: Path) -> CaptioningModel:
    checkpoint = read_checkpoint(folder)
    assert checkpoint.vocabulary == VOCABULARY
    return TorchBackend.from_checkpoint(checkpoint).model


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.average_with_start=0"], "model.average_with_start is 0.0; expected the share"),
        (["--model.average_with_start=1.5"], "above 0 and at most 1, or null"),
        (["--model.init_from=null"], "but model.init_from is null"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*options, *arguments]) == 2
    assert said in caplog.records[-1].message
    assert "Traceback" not in caplog.text
