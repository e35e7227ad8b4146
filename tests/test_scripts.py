import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.data.shapes import draw_shapes
from scripts import benchmark

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
    assert {(row["backend"], row["batch"]) for row in rest} == {(b, n) for b in ("onnx", "torch") for n in (1, 3)}
    assert {row["of encoder"] for row in rest if row[""] == benchmark.ENCODER} == {1}
    printed = capsys.readouterr().out
    assert "3 images" in printed
    assert "onnxruntime" in printed
    assert all(row[""] in printed for row in rows)


@pytest.mark.parametrize("drawn", [False, True])
def test_the_benchmark_measures_training(shapes: Path, tmp_path: Path, drawn: bool) -> None:
    data = ["--annotations", shapes / "annotations/captions_train.json", "--images", shapes / "images"]
    options = ["--config", ROOT / "configs/tiny.yaml", "--steps", 1]
    rows = measure(tmp_path, "training", *options, *([] if drawn else data))
    assert [row[""] for row in rows] == ["encoder frozen", "encoder fine-tuned"]
    assert all(row["captions/s"] > 0 and row["s/step"] > 0 and row["captions/step"] == 48 for row in rows)
    assert not list(Path().glob("lightning_logs"))


def test_the_benchmark_measures_the_start(checkpoint_folder: Path, tmp_path: Path) -> None:
    rows = measure(tmp_path, "start", "--model", checkpoint_folder, "--repeat", 1)
    assert [row[""].split()[:2] for row in rows[:3]] == [
        ["captioner", "--help"],
        ["import", "numpy,"],
        ["captioner", "caption"],
    ]
    assert all(row["seconds"] > 0 for row in rows[:3])


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["inference", "--model", "missing"], "missing does not exist"),
        (["inference", "--images", "."], "has no images"),
        (["start", "--model", "missing"], "missing does not exist"),
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


def test_the_evaluate_script_is_the_evaluate_command(checkpoint_folder: Path, shapes: Path, tmp_path: Path) -> None:
    annotations = shapes / "annotations/captions_train.json"
    options = ["--annotations", annotations, "--images", shapes / "images", "--model", checkpoint_folder]
    printed = []
    for name, command in (("script", [ROOT / "scripts/evaluate.py"]), ("command", ["-m", "captioner", "evaluate"])):
        call = [sys.executable, *command, *options, "--output", tmp_path / name]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        result = subprocess.run([str(arg) for arg in call], env=environment, check=True, capture_output=True)
        printed.append((result.stdout, result.stderr))
    assert printed[0] == printed[1]
    for file in ("results.json", "scores.json"):
        assert (tmp_path / "script" / file).read_bytes() == (tmp_path / "command" / file).read_bytes()
    assert len(json.loads((tmp_path / "script/results.json").read_text(encoding="utf-8"))) == 16
