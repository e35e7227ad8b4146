"""Write measured tables into pages of the documentation, between two markers."""

from pathlib import Path

from captioner.errors import ConfigError
from captioner.files import replacing


def check_markers(page: Path, name: str) -> None:
    """Check that there is a place for a table, before it is measured.

    Raises:
        ConfigError: The page does not exist, or has no such markers.
    """
    _around(page, name)


def write_between(page: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a Markdown page.

    Args:
        page: The page.
        name: The name in the markers.
        text: The new text; an empty line before and after it is added.

    Raises:
        ConfigError: The page does not exist, or has no such markers.
    """
    before, after = _around(page, name)
    with replacing(page) as path:
        path.write_text(f"{before}\n\n{text.strip()}\n\n{after}", encoding="utf-8")


def markdown_table(rows: list[list[str]]) -> str:
    """Format rows of cells, the first of them the names of the columns."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _around(page: Path, name: str) -> tuple[str, str]:
    """Return a page's text up to and with the first marker, and from the second one on."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ConfigError(
            f"{page} has no markers {begin} and {end}; add them, each on a line of its own, where"
            " the tables belong."
        )
    return before + begin, end + after
