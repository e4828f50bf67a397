"""Markdown tables: the published ones in README.md come from the records in results/, never from a keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown. Raises ValueError where a row has not as many cells as the header."""
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells for {len(header)} columns: {' | '.join(row)}")
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def percent(entry: Mapping[str, float]) -> str:
    """A share {"value", "low", "high"} with its interval: "75.3 % (74.0–76.5)"."""
    value, low, high = (f"{100 * entry[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} % ({low}–{high})"


def number(entry: Mapping[str, float], digits: int = 2) -> str:
    """A number {"value", "low", "high"} with its interval: "12.46 (11.90–13.02)"."""
    value, low, high = (f"{entry[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())
