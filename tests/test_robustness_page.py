"""docs/robustness.md: its commands, its example, its tables."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.robustness.damages import GROUPS
from scripts import benchmark, benchmark_adversarial

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
RENEWING = [line for line in PAGE.splitlines() if line.startswith("python") and "--page" in line]
PHOTOS = ("cat", "coffee", "rocket")
SMALL = ["--photos", "3", "--severities", "1"]


@pytest.fixture
def folder(
    tmp_path: Path, checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """The files that the page speaks of, and what makes a command small."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "robustness.md", tmp_path / "docs")
    images, captions, objects, rows = [], [], [], ["image,caption"]
    for number, name in enumerate(PHOTOS):
        for place in ("data", "photos"):
            (tmp_path / place).mkdir(exist_ok=True)
            shutil.copy(ROOT / "examples" / f"{name}.jpg", tmp_path / place)
        rows.append(f"photos/{name}.jpg,a {name} on a table")
        images.append({"id": number, "file_name": f"{name}.jpg"})
        captions.append({"id": number, "image_id": number, "caption": f"a {name} on a table"})
        objects.append({"id": number, "image_id": number, "category_id": 1})
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    annotations = json.dumps({"images": images, "annotations": captions})
    for file in ("everyday.json", "captions.json"):
        (tmp_path / file).write_text(annotations)
    kinds = [{"id": 1, "name": "dining table"}]
    instances = {"images": images, "annotations": objects, "categories": kinds}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "README.md").write_text("# A captioner\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_adversarial, "EPSILONS", (16,))
    monkeypatch.setattr(benchmark_adversarial, "STEPS", 2)
    monkeypatch.setattr(benchmark_adversarial, "LEVELS", (16,))
    monkeypatch.setattr(benchmark_adversarial, "TARGET_STEPS", 2)
    monkeypatch.setattr(benchmark_adversarial, "TARGET", "a red dog")
    return tmp_path, ["--model", str(checkpoint_folder)]


@pytest.mark.parametrize("command", [*COMMANDS, *RENEWING])
def test_its_commands_run(
    command: str, folder: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    where, model = folder
    words = shlex.split(command)
    if words[0] == "pip":
        assert words == ["pip", "install", "captioner[robustness]"]
        return
    if words[0] == "captioner":
        assert main([*words[1:], *model]) == 0
        assert "CHAIR_i" in capsys.readouterr().out
        card = (where / "README.md").read_text(encoding="utf-8")
        assert ("Hallucination rate" in card) is ("--card" in words)
        return
    assert words[:2] == ["python", "scripts/benchmark.py"]
    assert benchmark.main([*words[2:], *model, *SMALL]) == 0, capsys.readouterr().err
    if "--output" in words:
        assert (where / "report" / "report.html").is_file()
    if "--page" in words:
        text = (where / "docs" / "robustness.md").read_text(encoding="utf-8")
        part = words[2]
        begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
        assert text.partition(begin)[0] == PAGE.partition(begin)[0]
        assert text.partition(end)[2] == PAGE.partition(end)[2]
        table = text.partition(begin)[2].partition(end)[0]
        assert "3 photos" in table and table.count("\n| ") > 5


def test_a_page_without_marks_is_refused(
    folder: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder[0] / "page.md").write_text("# Nothing\n")
    call = ["robustness", *folder[1], *SMALL, "--damages", "crop", "--page", "page.md"]
    assert benchmark.main(call) == 2
    assert "has no markers <!-- robustness: begin -->" in capsys.readouterr().err
    assert (folder[0] / "page.md").read_text() == "# Nothing\n"


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "examples" / "cat.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/robustness.md", "exec"), {})


def test_it_names_every_damage_and_has_its_tables() -> None:
    for group, names in GROUPS.items():
        assert f"| `{group}` | {', '.join(f'`{name}`' for name in names)} |" in PAGE
    for part in ("robustness", "adversarial"):
        table = PAGE.partition(f"<!-- {part}: begin -->")[2].partition(f"<!-- {part}: end -->")[0]
        assert table.count("\n| ") > 5
