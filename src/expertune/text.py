"""Text from others, as it can be shown."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text without line ends and control characters, which a spreadsheet may refuse; blanks are taken together."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
