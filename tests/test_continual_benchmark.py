"""scripts/benchmark.py continual: its definitions, and that it runs; docs/continual.md."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.annotations.records import load_records
from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.cli import main
from captioner.data.sources import Source
from captioner.errors import ConfigError, DataError
from scripts import average_checkpoints, benchmark, benchmark_continual
from scripts.benchmark_continual import METHODS, Scorer, draw_digits, find_domains
from scripts.transfer import transfer
from tests.test_export import save_changed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "continual.md").read_text(encoding="utf-8")
COMMANDS = (
    "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines()
)


def test_the_figures_are_those_of_the_papers_worked_out_by_hand() -> None:
    """Three tasks, R as in Lopez-Paz and Ranzato (2017), who have no row before the first task."""
    scores = [[80, 20, 10], [95, 90, 30], [70, 75, 85]]
    found = transfer([[0, 0, 0], *scores], [1, 2, 3], [5, 6, 7])
    assert found.average == pytest.approx((70 + 75 + 85) / 3)
    assert found.backward == pytest.approx(((70 - 80) + (75 - 90)) / 2)
    assert found.forward == pytest.approx(((20 - 6) + (30 - 7)) / 2)
    # Chaudhry et al. (2018): from the best score on the way, which task 1 has after task 2
    assert found.forgetting == pytest.approx(((95 - 70) + (90 - 75)) / 2)


def test_the_figures_are_the_papers_sums_for_any_matrix() -> None:
    random = np.random.default_rng(0)
    for tasks in (2, 3, 5):
        r, b = random.uniform(0, 100, (tasks, tasks)), random.uniform(0, 5, tasks)
        found = transfer([[0.0] * tasks, *r.tolist()], list(range(1, tasks + 1)), b.tolist())
        backward = sum(r[tasks - 1, i] - r[i, i] for i in range(tasks - 1)) / (tasks - 1)
        forward = sum(r[i - 1, i] - b[i] for i in range(1, tasks)) / (tasks - 1)
        best = [max(r[step, j] for step in range(tasks - 1)) for j in range(tasks - 1)]
        forgotten = sum(best[j] - r[tasks - 1, j] for j in range(tasks - 1)) / (tasks - 1)
        assert found.average == pytest.approx(r[tasks - 1].mean())
        assert (found.backward, found.forward) == pytest.approx((backward, forward))
        assert found.forgetting == pytest.approx(forgotten)


def test_what_a_model_begins_with_counts_as_learned_before_the_first_step() -> None:
    found = transfer([[50, 10, 5], [40, 60, 8], [45, 30, 70]], [0, 1, 2], [0, 1, 2])
    assert found.backward == pytest.approx(((45 - 50) + (30 - 60)) / 2)
    assert found.forgetting == pytest.approx(((50 - 45) + (60 - 30)) / 2)
    assert found.forward == pytest.approx(((10 - 1) + (8 - 2)) / 2)
    alone = transfer([[3.0], [8.0]], [1], [0.0])
    assert (alone.average, alone.forgetting, alone.backward, alone.forward) == (8, None, None, None)


def test_photos_are_learned_from_or_scored(tmp_path: Path) -> None:
    table = draw_digits(tmp_path / "rows", 16)
    assert draw_digits(tmp_path / "rows", 16) == table, "and drawn once"
    file = tmp_path / "domains.yaml"
    file.write_text(
        f"sources:\n  known: {{annotations: {table}, rank_weights: [0, 1], style: s}}\n"
    )
    known, drawn = find_domains(file, ["digits"], 12, 4, tmp_path)
    assert (known.name, drawn.name, known.style, drawn.style) == ("known", "digits", "s", "")
    for domain in (known, drawn):
        assert isinstance(domain.source, Source)
        learned = load_records(domain.source.annotations or "")
        assert (len(learned), len(domain.scored)) == (12, 4)
        assert not {record.path for record in learned} & {record.path for record in domain.scored}
        assert all(record.path.is_file() for record in learned)
        captions = 1 if domain is known else 2
        assert {len(record.captions) for record in (*learned, *domain.scored)} == {captions}
    words = {word for record in drawn.scored for word in record.captions[0].split()}
    assert words <= {"the", "digits", "in", "a", "row", *benchmark_continual.NAMES}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sequence", "shapes,flowers"], "expected different names of shapes, digits"),
        (["--sequence", "shapes,shapes"], "expected different names"),
        (["--domains", "missing.yaml"], "missing.yaml: cannot be used"),
        (["--methods", "hope"], "expected some of plain, replay"),
    ],
)
def test_what_cannot_be_learned_is_told(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        benchmark_continual.continual(benchmark.parse(["continual", *arguments]))


def test_a_file_of_domains_needs_sources(tmp_path: Path) -> None:
    (tmp_path / "domains.yaml").write_text("validation: {}\n")
    with pytest.raises(ConfigError, match="expected the sections sources and validation"):
        find_domains(tmp_path / "domains.yaml", ["shapes"], 6, 2, tmp_path)


def run(tmp_path: Path, checkpoint: Path, *arguments: str) -> list[dict[str, Any]]:
    """Rows of the benchmark from a tiny checkpoint."""
    options = ["--model", str(checkpoint), "--photos", "6", "--scored", "2", "--epochs", "1"]
    options += ["--output", str(tmp_path / "runs"), "--json", str(tmp_path / "figures.json")]
    tiny = ["--data.cache_features=1", "--trainer.accelerator=cpu", "--model.warmup_steps=1"]
    tiny += ["--trainer.enable_progress_bar=false", "--data.min_count=1"]
    assert benchmark.main(["continual", *options, *arguments, *tiny]) == 0
    rows: list[dict[str, Any]] = json.loads((tmp_path / "figures.json").read_text())["continual"][
        "rows"
    ]
    return rows


def check(rows: list[dict[str, Any]], methods: list[str], domains: list[str]) -> None:
    """Each method has a row before and one after each domain, and its figures in the last."""
    baseline, *rest = rows
    assert baseline["step"] == "random weights"
    steps = ["before", *(f"after {name}" for name in domains)]
    assert [(row["method"], row["step"]) for row in rest] == [
        (method, step) for method in methods for step in steps
    ]
    names = [name for name in baseline if name in (*domains, "earlier")]
    for place in range(0, len(rest), len(steps)):
        own = rest[place : place + len(steps)]
        scores = [[row[name] for name in names] for row in own]
        learned = [domains.index(name) + 1 if name in domains else 0 for name in names]
        found = transfer(scores, learned, [baseline[name] for name in names])
        assert own[-1]["average"] == found.average
        assert (own[-1]["backward"], own[-1]["forgetting"]) == (found.backward, found.forgetting)
        assert own[0]["average"] is None


def test_a_domain_is_learned_against_forgetting(tmp_path: Path, checkpoint_folder: Path) -> None:
    """By the two methods that meet new words: a teacher without them, an average with them."""
    table = draw_digits(tmp_path / "earlier", 12, seed=1)
    file = tmp_path / "domains.yaml"
    file.write_text(f"sources: {{earlier: {{annotations: {table}}}}}\n")
    rows = run(
        tmp_path,
        checkpoint_folder,
        *("--domains", str(file), "--sequence", "digits"),
        *("--methods", "distillation,averaging"),
    )
    check(rows, ["distillation", "averaging"], ["digits"])
    words = read_checkpoint(checkpoint_folder).vocabulary.words
    runs = tmp_path / "runs"
    for folder in (runs / "distillation/digits/best", runs / "averaging/digits/best"):
        learned = read_checkpoint(folder).vocabulary.words
        assert learned[: len(words)] == words
        assert "digits" in learned[len(words) :]


def test_a_model_with_a_pointer_has_a_baseline(tmp_path: Path, checkpoint_folder: Path) -> None:
    start = read_checkpoint(checkpoint_folder)
    model = TorchBackend.from_checkpoint(start).model
    model.add_pointer()
    model.name_tags(start.vocabulary.words)
    save_changed(tmp_path / "pointing", model, start, onnx=False)
    (domain,) = find_domains(None, ["digits"], 4, 2, tmp_path)
    (score,) = Scorer(tmp_path / "pointing", [domain], {}).baseline()
    assert 0 <= score < 50


@pytest.mark.slow
def test_every_method_learns_a_sequence(tmp_path: Path, checkpoint_folder: Path) -> None:
    check(run(tmp_path, checkpoint_folder), list(METHODS), ["shapes", "digits"])


# --- docs/continual.md


def test_the_page_names_every_method_and_has_the_table() -> None:
    table = PAGE.partition("<!-- continual: begin -->")[2].partition("<!-- continual: end -->")[0]
    header = next(line for line in table.splitlines() if line.startswith("| method"))
    assert {"flickr8k", "everyday", "average", "forgetting"} <= set(header.split(" | "))
    for name in METHODS:
        assert f"| {name} |" in table, name


def test_the_benchmark_takes_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [shlex.split(line)[2:] for line in COMMANDS if "benchmark.py" in line]
    assert len(calls) == 2
    for call in calls:
        assert benchmark.parse(call).part == "continual"
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("domains.yaml").write_text(text)
    options = benchmark.parse(calls[1])
    with pytest.raises(DataError, match=r"flickr8k/captions_train\.json: cannot be read"):
        find_domains(options.domains, options.sequence.split(","), 6, 2, tmp_path)


@pytest.mark.slow
def test_the_methods_run_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the commands do, but put back
    shutil.copy(draw_digits(tmp_path / "rows", 8), tmp_path / "rows" / "photos.csv")
    text = (tmp_path / "rows" / "photos.csv").read_text()
    (tmp_path / "photos.csv").write_text(re.sub(r"^(\d)", r"rows/\1", text, flags=re.MULTILINE))
    entry = {"id": 1, "file_name": "1.png"}
    caption = {"id": 1, "image_id": 1, "caption": "three digits on a wall"}
    (tmp_path / "captions_train.json").write_text(
        json.dumps({"images": [entry], "annotations": [caption]})
    )
    shutil.copytree(tmp_path / "rows", tmp_path / "images")
    quick = "--trainer.accelerator=cpu --trainer.max_epochs=1 --data.cache_features=0"
    quick += " --checkpoint.onnx=false --plan.memory=false --data.min_count=1"
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        if program == "captioner":
            assert main([*arguments, *quick.split()]) == 0, line
        elif arguments[0] == "scripts/average_checkpoints.py":
            assert average_checkpoints.main(arguments[1:]) == 0
    assert read_checkpoint("runs/averaged").vocabulary.words
