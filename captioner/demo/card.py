"""Read facts from a checkpoint's model card: the model, its data and its scores."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.checkpoint import CARD


@dataclass(frozen=True)
class Card:
    """Facts about the model, for the page.

    Attributes:
        title: The card's title, or the model's architecture.
        facts: The items of the section "Facts", without full stops.
        scores: The names and the numbers of the first row of the last table, as text.
        scored: The paragraph above that table: what was scored, and how.
        text: The whole card, as Markdown that loads nothing from the network.
    """

    title: str
    facts: tuple[str, ...]
    scores: tuple[tuple[str, str], ...]
    scored: str
    text: str


def read_card(description: dict[str, Any]) -> Card:
    """Read the model card of a checkpoint; only parts in the form that training writes are found.

    Args:
        description: The result of `captioner.checkpoint.describe`.
    """
    try:
        text = (Path(description["folder"]) / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    title = re.search(r"^# +(.+)$", text, re.MULTILINE)
    facts = re.search(r"^## Facts\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    items = re.findall(r"^- (.+(?:\n +.+)*)$", facts[1], re.MULTILINE) if facts else []
    tables = re.findall(r"([^\n|]*)\n+(\|.*\|)\n\|[-:| ]+\|\n(\|.*\|)", text)
    scored, names, numbers = tables[-1] if tables else ("", "", "")
    made_of = [
        description["architecture"].get(part, {}).get("name", "") for part in ("encoder", "decoder")
    ]
    return Card(
        title=(
            title[1].strip()
            if title
            else f"{' and '.join(filter(None, made_of)) or 'A captioner model'}"
        ),
        facts=tuple(" ".join(item.split()).rstrip(".") for item in items)
        or (f"{description['words']:,} words",),
        scores=tuple(
            (name, number)
            for name, number in zip(_cells(names), _cells(numbers), strict=False)
            if re.fullmatch(r"[\d.]+", number)
        ),
        scored=scored.rstrip(":"),
        text=_harmless(text),
    )


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")] if row else []


def _harmless(text: str) -> str:
    """Turn HTML and images of Markdown, which could load external files, into plain text."""
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    return text.replace("<", "&lt;").replace("![", "[")
