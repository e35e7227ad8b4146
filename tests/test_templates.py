"""Templates: values are escaped."""

import json
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from captioner.templates import inlined, render

HOSTILE = "</script><b class=\"x\" id='y'>&amp; {{ value }} {% endif %}"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / f"templates_of_{tmp_path.name.replace('-', '_')}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_text_is_escaped_and_json_ends_no_element(package: Path) -> None:
    (package / "page.html").write_text(
        "<p>{{ value }}</p><i{{ {'a': value}|xmlattr }}>\n{{ value|tojson }}", "utf-8"
    )
    page = render(package.name, "page.html", value=HOSTILE)
    shown, _, data = page.partition("\n")
    assert shown.count("<") == 3 and shown.count('"') == 2 and "'" not in shown
    assert "<" not in data and json.loads(data) == HOSTILE


def test_a_name_that_is_not_given_is_an_error(package: Path) -> None:
    (package / "page.html").write_text("<p>{{ value }}</p>", "utf-8")
    with pytest.raises(UndefinedError, match="value"):
        render(package.name, "page.html")


def test_a_page_may_have_no_script(tmp_path: Path) -> None:
    (tmp_path / "page.css").write_text("p { color: red; }\n", "utf-8")
    parts = inlined(tmp_path / "page")
    assert parts["style"].endswith("p { color: red; }\n") and "--paper" in parts["style"]
    assert parts["script"] == ""
