import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import default_collate

from captioner.datasets.shapes import draw_shapes
from scripts import benchmark, benchmark_training, peers, plain_loop
from tests.training.runs import SMALL_RESNET

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    draw_shapes(folder, 20)
    return folder


def measure(tmp_path: Path, *args: object) -> list[dict[str, Any]]:
    """The rows that one part of the benchmark writes."""
    path = tmp_path / "figures.json"
    assert benchmark.main([*map(str, args), "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures.pop("machine")["CPU"]
    (part,) = figures.values()
    return part["rows"]


def test_the_benchmark_measures_inference(
    checkpoint_folder: Path,
    tmp_path: Path,
    picture: Callable[[int], Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    options = ["--model", checkpoint_folder, "--images", tmp_path, "--repeat", 1, "--batch-size", 3]
    rows = measure(tmp_path, "inference", *options)
    assert all(row["images/s"] > 0 for row in rows)
    read, *rest = rows
    assert (read[""], read["of encoder"]) == (benchmark.READ, None)
    backends = ["onnx", "torch", *(["openvino"] if find_spec("openvino") else [])]
    assert {(row["backend"], row["batch"]) for row in rest} == {
        (b, n) for b in backends for n in (1, 3)
    }
    assert {row["of encoder"] for row in rest if row[""] == benchmark.ENCODER} == {1}
    printed = capsys.readouterr().out
    assert "3 images" in printed
    assert "onnxruntime" in printed
    assert all(row[""] in printed for row in rows)


SMALL = [
    *("--config", ROOT / "configs/tiny.yaml", "--steps", 1, "--repeat", 1, "--batch-size", 2),
    *("--data.preprocessing.size=64", f"--model.encoder.name={SMALL_RESNET}"),
]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the training benchmark draw small images, and train few steps before it measures."""
    monkeypatch.setattr(benchmark_training, "SIDES", (160, 120))
    monkeypatch.setattr(benchmark_training, "SETTLE", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("little")
def test_the_benchmark_measures_every_way_of_training_that_a_config_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ["--model.finetune.stages=[features.12]", "--model.finetune.from_epoch=12"]
    stages += ["--model.encoder.name=squeezenet1_1"]  # one that takes longer than reading
    rows = measure(tmp_path, "training", *SMALL, "--data.workers=1", *stages)
    plain, stored, same, cached, computed, read, plain_tuned, tuned = rows
    assert all(
        row["captions/s"] == pytest.approx(5 * row["images/s"]) and row["captions/s"] > 0
        for row in rows
    )
    for row in (plain, stored, same, cached, computed, read):
        assert row["x plain loop"] == pytest.approx(row["captions/s"] / plain["captions/s"])
    assert tuned["x plain loop"] == pytest.approx(tuned["captions/s"] / plain_tuned["captions/s"])
    assert computed["captions/s"] < cached["captions/s"]
    for row in rows:
        alone = row["loading alone"], row["step alone"]
        assert all(alone) if row in (cached, read, tuned) else alone == (None, None)
    printed = capsys.readouterr().out
    assert all(row[""] in printed for row in rows)
    hours = re.search(
        r"16 epochs of 113,287 images.*: (\S+) hours \(features (\S+), 12 .* (\S+), 4 .* (\S+)\)",
        printed,
    )
    assert hours is not None
    total, *parts = map(float, hours.groups())
    assert total == pytest.approx(sum(parts), rel=0.02)
    assert parts[1] == pytest.approx(12 * 113_287 / cached["images/s"] / 3600, rel=0.01)
    assert parts[2] == pytest.approx(4 * 113_287 / tuned["images/s"] / 3600, rel=0.01)


@pytest.mark.slow
def test_the_benchmark_trains_on_given_images(
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = [
        "--annotations",
        shapes / "annotations/captions_train.json",
        "--images",
        shapes / "images",
    ]
    rows = measure(
        tmp_path,
        "training",
        *SMALL,
        *data,
        "--data.cache_features=0",
        "--data.captions_per_image=2",
    )
    plain = benchmark_training.PLAIN, benchmark_training.STORED, benchmark_training.PLAIN_SAME
    assert [row[""] for row in rows] == [*plain, benchmark_training.READ]
    assert all(row["captions/s"] == pytest.approx(2 * row["images/s"]) for row in rows)
    assert "16 images of captions_train.json" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("decoder", ["show_tell", "show_attend_tell", "up_down"])
def test_the_plain_loop_has_the_loss_that_the_trainer_has(
    shapes: Path, tmp_path: Path, decoder: str
) -> None:
    """A batch of images with all their captions, and a row for each caption: the same number."""

    class Look(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int
        ) -> None:
            self.indices, self.loss = batch.indices.tolist(), outputs["loss"].item()

    options = benchmark.parse(
        [
            "training",
            *map(str, SMALL),
            f"--annotations={shapes / 'annotations/captions_train.json'}",
        ]
    )
    plan = benchmark_training.make_plan(options, tmp_path)
    penalty = 0.0 if decoder == "show_tell" else 0.5
    changes = [
        f"--model.decoder.name={decoder}",
        "--model.decoder.dropout=0",
        f"--model.coverage_penalty={penalty}",
    ]
    changes += ["--data.cache_features=0", "--model.label_smoothing=0.1", "--trainer.max_steps=1"]
    cli = benchmark_training.build(plan, changes)
    before = copy.deepcopy(cli.model.state_dict())
    look = Look()
    cli.trainer.callbacks.append(look)
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.model.load_state_dict(before)
    records = [cli.datamodule.records["train"][index] for index in look.indices]
    rows = plain_loop.CaptionRows(cli.datamodule, records)
    assert len(rows) == sum(len(record.captions) for record in records) > len(records)
    loss = plain_loop.compute_loss(
        cli.model, *default_collate([rows[index] for index in range(len(rows))])
    )
    assert loss.item() == pytest.approx(look.loss, rel=1e-5)


def test_the_benchmark_measures_the_start(checkpoint_folder: Path, tmp_path: Path) -> None:
    rows = measure(tmp_path, "start", "--model", checkpoint_folder, "--repeat", 1)
    backends = ["onnx", *(["openvino"] if find_spec("openvino") else [])]
    help_, imports, *captioning = rows[: 2 + len(backends)]
    assert help_[""] == "captioner --help"
    assert imports[""].startswith("import numpy, ")
    assert [row[""].split()[-1] for row in captioning] == backends
    assert all(row["seconds"] > 0 for row in (help_, imports, *captioning))
    assert len(rows) == 2 + 2 * len(backends)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["inference", "--model", "missing"], "missing does not exist"),
        (["inference", "--images", "."], "has no images"),
        (["start", "--model", "missing"], "missing does not exist"),
        (["training", "--annotations", "missing.json"], "missing.json"),
        (["inference", "--json", "missing/figures.json"], "missing does not exist; create it"),
    ],
)
def test_the_benchmark_says_what_is_wrong(
    checkpoint_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    part, *options = args
    assert benchmark.main([part, "--model", str(checkpoint_folder), *options]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [["training", "--steps.x=1"], ["training", "--data.x"], ["start", "--data.x=1"]]
)
def test_the_benchmark_takes_changes_of_the_config_of_training_and_no_others(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(args)
    assert f"unrecognized argument: {args[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["robustness", "--photos", "-1"], ["inference", "--repeat", "0"]])
def test_the_benchmark_measures_at_least_one_of_everything(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(args)
    assert f"argument {args[1]}: {args[2]} is too few" in capsys.readouterr().err


@pytest.mark.parametrize("length", ["0", "-1", "nan", "inf"])
def test_the_benchmark_draws_clips_of_some_length(
    length: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["video", f"--minutes={length}"])
    assert f"argument --minutes: {length} is no length" in capsys.readouterr().err


def test_the_evaluate_script_is_the_evaluate_command(
    checkpoint_folder: Path, shapes: Path, tmp_path: Path
) -> None:
    annotations = shapes / "annotations/captions_train.json"
    options = [
        "--annotations",
        annotations,
        "--images",
        shapes / "images",
        "--model",
        checkpoint_folder,
    ]
    printed = []
    for name, command in (
        ("script", [ROOT / "scripts/evaluate.py"]),
        ("command", ["-m", "captioner", "evaluate"]),
    ):
        call = [sys.executable, *command, *options, "--output", tmp_path / name]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [str(arg) for arg in call], env=environment, check=True, capture_output=True
        )
        printed.append((result.stdout, result.stderr))
    assert printed[0] == printed[1]
    for file in ("results.json", "scores.json"):
        assert (tmp_path / "script" / file).read_bytes() == (
            tmp_path / "command" / file
        ).read_bytes()
    assert len(json.loads((tmp_path / "script/results.json").read_text(encoding="utf-8"))) == 16


@pytest.mark.slow
def test_the_benchmark_compares_engines(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts import benchmark_engines

    monkeypatch.setattr(benchmark_engines, "SIDES", {"640 x 480": (64, 48)})
    monkeypatch.setattr("torch.compile", lambda model: model)  # takes a compiler, and minutes
    options = ["--model", checkpoint_folder, "--int8", checkpoint_folder, "--repeat", 1]
    rows = measure(tmp_path, "engines", *options)
    assert {"ONNX Runtime", "ONNX Runtime, int8", "torch", "torch.compile"} <= {
        row["engine"] for row in rows
    }
    assert {row["threads"] for row in rows} == {1, 2}
    assert all(row["images/s"] > 0 for row in rows)
    assert all(row["x ONNX Runtime"] == 1 for row in rows if row["engine"] == "ONNX Runtime")


def test_the_benchmark_measures_captioners_in_processes_of_their_own(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n")
    options = ["--model", checkpoint_folder, "--rows", "captioner", "--count", 1, "--docs", page]
    (row,) = measure(tmp_path, "peers", *options)
    assert (row[""], row["beams"], row["batch"]) == ("captioner", 5, 1)
    assert 0 < row["first caption, s"] < 600
    assert 20 < row["peak memory, MB"] < 4000
    tensors = load_file(checkpoint_folder / "model.safetensors")
    assert row["weights, MB"] == sum(tensor.numel() for tensor in tensors.values()) * 2 / 1e6
    before, _, _, names, _, cells, *_, after = page.read_text().splitlines()
    assert (before, after) == ("Before", "after")
    assert "images/s" in names
    assert cells.startswith("| captioner | 5 | 1 |")


def test_the_benchmark_says_what_it_cannot_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["peers", "--rows", "captioner,oracle"]) == 2
    assert "oracle; expected some of captioner" in capsys.readouterr().err
    page = tmp_path / "page.md"
    page.touch()
    assert benchmark.main(["peers", "--rows", "captioner", "--docs", str(page)]) == 2
    assert "has no markers <!-- peers: begin -->" in capsys.readouterr().err


def test_the_loop_of_the_tutorial_finds_the_likeliest_caption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "TOKENS", 2)
    monkeypatch.setattr(peers, "LOOP_WORDS", 5)
    for name, size in (("LOOP_WIDTH", 4), ("LOOP_FEATURES", 6)):
        monkeypatch.setattr(peers, name, size)
    torch.manual_seed(0)
    network = peers.tutorial(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 1), torch.nn.Flatten(2)))
    pixels = torch.rand(3, 2, 2)
    with torch.inference_mode():
        widest = peers.search(network, pixels, 5)
        assert len(widest[0]) == 2
        assert widest[1] == pytest.approx(max(scores(network, pixels).values()), abs=1e-5)
        assert scores(network, pixels)[tuple(widest[0])] == pytest.approx(widest[1], abs=1e-5)


def scores(network: torch.nn.ModuleDict, pixels: torch.Tensor) -> dict[tuple[int, int], float]:
    """The log-probability of every caption of two words, one word after the other."""
    regions = network["encoder"](pixels[None])[0].T  # (L, D)
    first, memory = network["first_state"](regions.mean(dim=0)).chunk(2)

    def step(
        word: int, state: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        energies = torch.stack(
            [
                network["energy"]((network["of_region"](r) + network["of_state"](state)).relu())[0]
                for r in regions
            ]
        )
        seen = energies.softmax(dim=0) @ regions * network["gate"](state).sigmoid()
        fed = torch.cat([network["embed"].weight[word], seen])
        state, memory = network["cell"](fed, (state, memory))
        return network["output"](state).log_softmax(dim=0), state, memory

    found = {}
    log_probs, state, memory = step(0, first, memory)
    for one in range(5):
        following, _, _ = step(one, state, memory)
        for two in range(5):
            found[one, two] = float(log_probs[one] + following[two])
    return found
