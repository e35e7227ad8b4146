"""Two processes train and validate as one does."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.annotations.records import load_records
from captioner.training.processes import shares
from tests.training.runs import ROOT, SHIPPED_ENCODER, SMALL, TINY, last_checkpoint

# A batch of 8 either way. 11 validation images: an odd number, of which no process may see one
# twice.
OPTIONS = [
    f"--config={TINY}",
    *SMALL,
    *SHIPPED_ENCODER,
    "--data.draw_shapes=55",
    "--model.decoder.dropout=0",
    "--model.coverage_penalty=0.1",
    "--model.finetune={stages: [features.8], from_epoch: 1, learning_rate: 1e-2}",
    "--data.cache_features=2",
    "--data.augmentation.crop=0.7",
    "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging",
    "--trainer.max_epochs=3",
]
ONE = [sys.executable, str(ROOT / "scripts/train.py"), *OPTIONS, "--data.batch_size=8"]
TWO = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    *(str(ROOT / "scripts/train.py"), *OPTIONS, "--data.batch_size=4"),
]


def run(command: list[str], folder: str, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, f"--trainer.default_root_dir={folder}", *more],
        env=environment,
        capture_output=True,
        text=True,
    )


def scores(folder: str) -> list[str]:
    """The log's lines about epochs, without the time."""
    return [
        line.partition(" Epoch ")[2]
        for line in Path(folder, "train.log").read_text().splitlines()
        if "BLEU" in line
    ]


def _share(rank: int, file: str, counts: list[float], results: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    results.put((rank, [float(own) for own in shares(counts, ranks=2, device=torch.device("cpu"))]))
    torch.distributed.destroy_process_group()


def test_shares_are_relative_to_the_mean_and_0_where_no_process_has_any(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    counted = ([3.0, 0.0, 0.0], [1.0, 2.0, 0.0])
    processes = [
        context.Process(target=_share, args=(rank, str(tmp_path / "store"), counts, results))
        for rank, counts in enumerate(counted)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == {0: [1.5, 0.0, 0.0], 1: [0.5, 2.0, 0.0]}


@pytest.mark.slow
def test_two_processes_give_the_weights_captions_and_scores_of_one():
    for command, folder in ((ONE, "one"), (TWO, "two")):
        result = run(command, folder)
        assert result.returncode == 0, result.stderr[-3000:]

    one, two = last_checkpoint("one"), last_checkpoint("two")
    assert one["global_step"] == two["global_step"]
    moved = 0.0
    for key in ("current_model_state", "state_dict"):
        for name, expected in one[key].items():
            torch.testing.assert_close(
                two[key][name], expected, rtol=1e-3, atol=1e-4, msg=f"{key}: {name}"
            )
    bundled = run([*ONE, "--trainer.max_epochs=1"], "frozen")
    assert bundled.returncode == 0
    for name, before in last_checkpoint("frozen")["current_model_state"].items():
        if "cnn.conv_head.weight" in name:
            moved = float((two["current_model_state"][name] - before).abs().max())
    assert moved > 1e-3, (
        "the encoder, which begins to train when the processes are long connected, did train"
    )

    captions = [
        json.loads(Path(folder, "validation.json").read_text()) for folder in ("one", "two")
    ]
    assert captions[0] == captions[1]
    records = load_records("data/shapes/annotations/captions_val.json", "data/shapes/images")
    assert sorted(entry["image_id"] for entry in captions[1]) == sorted(
        record.image_id for record in records
    )
    assert len(records) % 2 == 1
    assert scores("one") == scores("two")


@pytest.mark.slow
def test_what_two_processes_saved_one_goes_on_with():
    first = run(TWO, "two", "--trainer.max_epochs=3")
    assert first.returncode == 0, first.stderr[-3000:]
    result = run(ONE, "two", "--trainer.max_epochs=4", "--ckpt_path=last")
    assert result.returncode == 0, result.stderr[-3000:]
    assert last_checkpoint("two")["epoch"] == 3


@pytest.mark.slow
def test_fewer_validation_images_than_processes():
    result = run(
        TWO, "two", "--data.draw_shapes=6", "--trainer.max_epochs=1", "--data.batch_size=2"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(json.loads(Path("two/validation.json").read_text())) == 1
