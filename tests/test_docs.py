"""What the documents tell a user to type exists, and what they quote is what the program says."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from docs import paste_help

from expertune import __version__, outputs
from expertune.cli.main import app
from expertune.config import Config, make_config, settings
from expertune.model.arch import supported
from pages import GUIDES, PAGES, README, ROOT, blocks, command_lines

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
FENCED = ("sh", "bash", "")
ELSEWHERE = {"--help", "--lora", "--num-cpus"}  # of every command; of llama.cpp; of Ray
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def options(name: str) -> set[str]:
    return {flag for parameter in COMMANDS[name].params for flag in (*parameter.opts, *parameter.secondary_opts)}


@each_page
def test_links_make_targets_and_scripts_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M), target
    for script in re.findall(r"python ((?:[a-z_]+/)?[a-z_]+\.py)", text):
        assert (ROOT / script).is_file(), script


@each_page
def test_every_command_in_a_block_is_one_that_the_command_line_takes(page: Path) -> None:
    """Parsed by the real parser: names, flags, choices, what is required; settings also by their ranges."""
    for words in command_lines(page, *FENCED):
        if words[0] == "expertune":
            taken(words[1], words[2:])
        elif words[:2] == ["python", "scripts/fine_tuner.py"]:
            taken("tune", words[2:])
        elif words[0] == "python" and words[1].endswith(".py"):
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            for flag in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
                assert f'"{flag}"' in source, f"{words[1]} has no {flag}"


def taken(name: str, arguments: list[str]) -> None:
    assert name in COMMANDS, f"expertune {name}"
    context = COMMANDS[name].make_context(name, list(arguments))  # raises a usage error, which says what is wrong
    names = {setting.name for setting in settings()} if name == "tune" else set()
    make_config({key: value for key, value in context.params.items() if key in names and value is not None})


@each_page
def test_every_command_in_a_sentence_has_its_flags(page: Path) -> None:
    for span in re.findall(r"`expertune ([^`]+)`", page.read_text(encoding="utf-8")):
        words = span.split()
        if words[0].startswith("-") or words[0].isupper():  # expertune --help, expertune COMMAND --help
            continue
        assert words[0] in COMMANDS, span
        assert {word for word in words if re.match(r"--[a-z]", word)} <= options(words[0]) | {"--help"}, span


def test_flags_in_the_guides_are_flags_of_some_command() -> None:
    known = set().union(*(options(name) for name in COMMANDS)) | ELSEWHERE
    for page in GUIDES:
        assert set(re.findall(r"`(--[a-z-]+)", page.read_text(encoding="utf-8"))) <= known, page.name


@each_page
def test_python_in_the_documents_imports_what_there_is(page: Path) -> None:
    for block in blocks(page, "python"):
        for line in re.findall(r"^(?:from|import) .*$", block, flags=re.M):
            (statement,) = ast.parse(line).body
            assert isinstance(statement, (ast.Import, ast.ImportFrom))
            for alias in statement.names:
                if isinstance(statement, ast.Import):
                    importlib.import_module(alias.name)
                else:
                    exec(f"from {statement.module} import {alias.name}", {})


def test_the_page_of_commands_is_what_help_prints() -> None:
    page = paste_help.PAGE.read_text(encoding="utf-8")
    assert paste_help.pasted(page) == page, "run `make docs`"
    for name in COMMANDS:
        assert f"## expertune {name}\n" in page


def test_the_page_of_settings_has_those_of_the_program() -> None:
    page = paste_help.REFERENCE.read_text(encoding="utf-8")
    assert paste_help.with_settings(page) == page, "run `make docs`"
    assert [setting.name for setting in settings() if f"\n| `{setting.name}` |" not in page] == []


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_help_on_that_page_does_not_depend_on_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = paste_help.help_texts()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert paste_help.help_texts() == before
    assert max(len(line) for text in before.values() for line in text.splitlines()) <= paste_help.WIDTH


def test_the_readme_lists_every_output() -> None:
    text = README.read_text(encoding="utf-8")
    names = [
        *outputs.TUNED_FILES,
        outputs.MODEL_SET,
        outputs.METADATA,
        outputs.REGISTRATION_SAMPLE,
        outputs.LOG,
        outputs.EVENTS,
        "report.html",
        "report.json",
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_shares_of_the_split_in_the_documents_are_the_defaults() -> None:
    """Every "70/10/20": three numbers that make a hundred."""
    config = Config()
    validation, test = round(100 * config.dev_share), round(100 * config.test_share)
    said = [
        tuple(map(int, found))
        for page in GUIDES
        for found in re.findall(r"\b(\d{1,2})/(\d{1,2})/(\d{1,2})\b", page.read_text(encoding="utf-8"))
    ]
    splits = {shares for shares in said if sum(shares) == 100}
    assert splits == {(100 - validation - test, validation, test)}


def literals() -> Iterator[str]:
    """Yield every string of the source, an f-string in the pieces between its values; not the docstrings."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


def clauses(text: str) -> list[str]:
    return [clause.strip() for clause in re.split(r"[;,()\n]|: ", text) if len(clause.strip()) >= 8]


@pytest.mark.slow
def test_quoted_messages_are_made_of_the_programs_own_strings() -> None:
    """Half of each quoted line, or more, is made of clauses of our messages; the rest are names, numbers and paths."""
    ours = {clause for text in literals() for clause in clauses(text)}
    page = (ROOT / "docs/when-it-goes-wrong.md").read_text(encoding="utf-8")
    quotes = re.findall(r"^> `([^`]+`?[^`]*)`$", page, flags=re.M)
    assert len(quotes) > 12
    shares = {quote: share_covered(re.sub(r"https?://\S+|…", "", quote), ours) for quote in quotes}
    assert {quote: share for quote, share in shares.items() if share < 0.5} == {}


def share_covered(quote: str, pieces: set[str]) -> float:
    places: set[int] = set()
    for piece in pieces:
        for found in re.finditer(re.escape(piece), quote):
            places.update(range(found.start(), found.end()))
    return len(places) / len(quote.strip())


def test_the_page_on_families_names_every_architecture() -> None:
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert [name for name in supported() if f"`{name}`" not in text] == []


def test_the_citation_names_this_version() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], str(citation["version"]), citation["license"]) == ("Expertune", __version__, "MIT")


def test_the_commit_hooks_take_the_ruff_that_lint_takes() -> None:
    import yaml

    pinned = re.search(r"^ruff==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.M)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert pinned is not None
    taken_by = {hook["id"]: hook.get("additional_dependencies") for hook in hooks}
    assert taken_by == {"ruff": [pinned[0]], "ruff-format": [pinned[0]], "pyright": None}
