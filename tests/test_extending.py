"""docs/extending.md: the code of every section runs as shown."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner.annotations.formats import FORMATS
from captioner.backends.choice import BACKENDS
from captioner.evaluation.metrics import METRICS
from captioner.model.decoder import DECODERS

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(autouse=True)
def tables_are_put_back() -> Iterator[None]:
    """What an example enters into a table of ours stays in no other test."""
    tables = FORMATS, BACKENDS, METRICS, DECODERS
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    sys.modules.pop("example", None)


@pytest.mark.parametrize("section", SECTIONS)
def test_its_examples_run(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.chdir(tmp_path)
    exec(
        compile("\n".join(blocks), f"docs/extending.md, {section}", "exec"), {"__name__": "example"}
    )
