"""The part `metrics` of scripts/benchmark.py."""

import json
import shutil
from pathlib import Path

import pytest

from scripts import benchmark, benchmark_metrics

REWARD = "CIDEr-D as a reward, 200 captions"  # five of each image


def measure(args: list[str], folder: Path) -> tuple[str, dict[str, dict[str, float | None]]]:
    assert (
        benchmark.main(["metrics", *args, "--repeat", "1", "--json", str(folder / "figures.json")])
        == 0
    )
    found = json.loads((folder / "figures.json").read_text(encoding="utf-8"))["metrics"]
    return found["about"], {row[""]: row for row in found["rows"]}


def test_the_benchmark_measures_metrics_without_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(benchmark_metrics, "IMAGES", 40)
    monkeypatch.setattr(benchmark_metrics, "COCO", tmp_path / "missing.json")
    about, rows = measure([], tmp_path)
    assert about == "Metrics: 40 images with 200 references, drawn"
    assert list(rows) == ["tokens", "BLEU", "ROUGE-L", "CIDEr-D", benchmark_metrics.ALL, REWARD]
    *stages, total, reward = (row["captioner, ms"] for row in rows.values())
    assert total == pytest.approx(sum(stages)), "with one round, medians add up"
    assert reward > 0
    assert all(row.keys() == {"", "captioner, ms"} for row in rows.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="requires Java")
def test_the_benchmark_measures_metrics_beside_the_official_scorer(tmp_path: Path) -> None:
    annotations = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(12)],
        "annotations": [
            {
                "id": 2 * i + k,
                "image_id": i,
                "caption": f"{what} on {i + 2} {('hills', 'boats')[i % 2]}.",
            }
            for i in range(12)
            for k, what in enumerate(("A dog runs", "The man doesn't sit"))
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(annotations), encoding="utf-8")
    about, rows = measure(["--annotations", str(tmp_path / "captions.json")], tmp_path)
    assert (
        about
        == "Metrics: 12 images with 24 references, captions.json; scores differ by 0.0000 points at"
        " most"
    )
    for stage, row in rows.items():
        if not stage.startswith(benchmark_metrics.REWARD):
            assert row["times"] == pytest.approx(row["pycocoevalcap, ms"] / row["captioner, ms"])
