"""The documents as a reader uses them: fenced blocks, the commands in them, the Python in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
GUIDES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "bench" / "README.md", ROOT / "examples" / "README.md"]
FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of these languages ("" for a fence without one), without their indentation."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(each["text"]) for each in found if each["language"] in languages]


def command_lines(page: Path, *languages: str) -> Iterator[list[str]]:
    """Yield each line of the page's blocks as arguments: continuation lines joined, comments left out."""
    for block in blocks(page, *languages):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*[.\w/]", line) and (words := _words(line)):
                yield words


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a line of output, not a command: an unpaired quote
        return []
