"""Hooks of MkDocs: pages from outside docs/, links as on GitHub, the list of decisions (mkdocs.yml names this file)."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# files that pages of docs/ link to; on the site they have the same path as in the repository
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/README.md",
    "examples/README.md",
    "examples/first_run.ipynb",
)
CODE = re.compile(r"`[^`]+`")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: Any) -> Any:
    """Give headings the anchors that GitHub gives them, and list the decisions."""
    from pymdownx.slugs import slugify

    config["mdx_configs"].setdefault("toc", {})["slugify"] = slugify(case="lower")
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config["nav"] = _filled(config["nav"], [f"decisions/{path.name}" for path in decisions])
    return config


def _filled(nav: list[Any], decisions: list[str]) -> list[Any]:
    """Replace the folder of the decisions by its pages."""
    filled = []
    for entry in nav:
        (title, content), *_ = entry.items()
        if isinstance(content, list):
            content = _filled(content, decisions)
        filled.append({title: decisions if content == "decisions/" else content})
    return filled


def on_files(files: Any, config: Any) -> Any:
    """Add the files from outside docs/."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links between docs/ and the rest of the repository to their places on the site; `\\|` in tables is `|`."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in OUTSIDE else f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[0])).removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    lines = (CODE.sub(lambda code: code[0].replace("\\|", "|"), x) if x[:1] == "|" else x for x in markdown.split("\n"))
    return LINK.sub(moved, "\n".join(lines))
