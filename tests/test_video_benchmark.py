"""The parts of the benchmark that are about clips, with tiny sizes."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import benchmark

pytest.importorskip("av")


def measure(tmp_path: Path, *args: str) -> list[dict[str, Any]]:
    """The rows that one part of the benchmark writes."""
    path = tmp_path / "figures.json"
    assert benchmark.main([*args, "--json", str(path)]) == 0
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[args[0]]["rows"]
    return rows


@pytest.mark.slow
def test_it_measures_clips(tmp_path: Path) -> None:
    rows = measure(tmp_path, "video", "--minutes", "0.1", "--short", "0.05")
    assert [row[""].split(" ")[0] for row in rows] == ["0.05", "0.05", "0.1"]
    for row in rows:
        shares = [row[name] for name in ("decoding", "CNN", "RNN", "rest")]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0
        assert row["s/s"] > 0
        assert row["s/CPU s"] > 0
        assert row["MB"] > 10


def test_it_compares_ways_to_find_cuts(tmp_path: Path) -> None:
    rows = measure(tmp_path, "shots", "--clips", "1", "--film-shots", "2")
    ours = [row for row in rows if row[""].startswith("features")]
    assert len(ours) == 3
    assert (ours[1]["found"], ours[1]["right"]) == (1, 1)
    for row in rows:
        assert row["of"] == 1
        assert row["right"] <= min(row["found"], row["of"])


def test_a_boundary_is_found_by_one_time_near_it() -> None:
    from scripts.benchmark_video import Boundary, matched

    cut, dissolve = Boundary(3, 3), Boundary(5, 6)
    assert matched([3.4, 2.9, 6.4, 9], [cut, dissolve]) == [(1, 0), (2, 1)]
    assert matched([3.6, 4.4], [cut, dissolve]) == []
