"""A checkpoint's model card -> a line of facts: which model, which data, how good."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.checkpoint import CARD


@dataclass(frozen=True)
class Card:
    """What the page says about its model.

    Attributes:
        title: The card's title, or what the model is made of.
        facts: The items of its section "Facts", without full stops.
        scores: Names and numbers of the first row of its last table, as they stand there.
        scored: What was scored and how: the paragraph above that table.
        text: The whole card, Markdown that loads nothing.
    """

    title: str
    facts: tuple[str, ...]
    scores: tuple[tuple[str, str], ...]
    scored: str
    text: str


def read_card(description: dict[str, Any]) -> Card:
    """Read the model card of a checkpoint, as far as it has the form that training gives it.

    Args:
        description: What `captioner.checkpoint.describe` says about the checkpoint.
    """
    try:
        text = (Path(description["folder"]) / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    title = re.search(r"^# +(.+)$", text, re.MULTILINE)
    facts = re.search(r"^## Facts\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    items = re.findall(r"^- (.+)$", facts[1], re.MULTILINE) if facts else []
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
        facts=tuple(item.rstrip(".") for item in items) or (f"{description['words']:,} words",),
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
    """Markdown in which HTML and images, which could be loaded from anywhere, are plain text."""
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    return text.replace("<", "&lt;").replace("![", "[")
