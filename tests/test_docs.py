"""What the documents tell a user to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from expertune import outputs
from expertune.cli.main import app
from expertune.config import settings
from expertune.model.arch import supported

ROOT = Path(__file__).resolve().parent.parent
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "bench" / "README.md", ROOT / "examples" / "README.md"]
COMMANDS = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_flags_files_and_links_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`?expertune ([a-z]+)\b(?= |`)", text):
        assert name in COMMANDS, name
    for target in re.findall(r"^make ([a-z]+)", text, flags=re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M), target
    for script in re.findall(r"python ((?:[a-z_]+/)?[a-z_]+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link


def test_flags_in_the_guides_are_flags_of_some_command() -> None:
    known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    known |= {"--help", "--lora"}
    for page in GUIDES:
        assert set(re.findall(r"`(--[a-z-]+)", page.read_text())) <= known


def test_the_readme_lists_every_output() -> None:
    text = (ROOT / "README.md").read_text()
    names = [
        *outputs.TUNED_FILES,
        outputs.MODEL_SET,
        outputs.METADATA,
        outputs.LOG,
        outputs.EVENTS,
        "report.html",
        "report.json",
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_defaults_told_in_the_documents_are_the_defaults() -> None:
    defaults = {setting.name: setting.default for setting in settings()}
    assert (defaults["dev_share"], defaults["test_share"]) == (0.1, 0.2)  # "70/10/20"
    assert (defaults["min_label_agreement"], defaults["max_probability_gap"], defaults["min_update_retained"]) == (
        0.99,
        0.02,
        0.9,
    )


def test_what_the_page_of_faults_quotes_is_said() -> None:
    """Four words in a row of each quoted line stand in the source (lines of a text joined)."""
    code = "".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))
    said = re.sub(r'"\s*\n\s*f?"', "", code)
    quotes = re.findall(r"^> `([^`]+`?[^`]*)`$", (ROOT / "docs/when-it-goes-wrong.md").read_text(), flags=re.M)
    assert len(quotes) > 12
    for quote in quotes:
        words = quote.split(" ")
        runs = [" ".join(words[i : i + 4]) for i in range(max(1, len(words) - 3))]
        assert any(run in said for run in runs), quote


def test_the_page_on_families_names_every_architecture() -> None:
    text = (ROOT / "docs" / "families.md").read_text()
    assert [name for name in supported() if f"`{name}`" not in text] == []
