"""The site of docs/: it builds with every link and anchor, loads nothing from elsewhere, and has every page."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs import site_hooks

from expertune.errors import __doc__ as exceptions
from expertune.fine_tuner import FineTuner
from pages import ROOT

MISSING = [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if importlib.util.find_spec(name) is None]
CONFIG = ROOT / "mkdocs.yml"
KEPT = ("site_name", "strict", "use_directory_urls", "validation")  # the settings that find broken links


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed; pip install -c constraints.txt -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = build(CONFIG, folder)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser loads with the page: not those of links to click on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        names = ("src", "srcset", "data", "poster", *(("href",) if tag in ("link", "use", "image") else ()))
        self.addresses += [found[name] for name in names if name in found]
        self.classes |= set(found.get("class", "").split())
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = Loaded(page.read_text(encoding="utf-8"))
        assert [each for each in loaded.addresses if re.match(r"(https?:)?//", each)] == [], page.name
        assert "mermaid" not in loaded.classes, f"{page.name}: the theme would fetch mermaid"
        assert loaded.policy.startswith("default-src 'self';") and "http" not in loaded.policy
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", text), sheet.name


@pytest.mark.slow
def test_the_reference_has_every_public_method_and_exception(site: Path) -> None:
    page = (site / "reference.html").read_text(encoding="utf-8")
    names = [name for name in vars(FineTuner) if not name.startswith("_")]
    assert [name for name in names if f'id="expertune.fine_tuner.FineTuner.{name}"' not in page] == []
    assert [
        name for name in re.findall(r"── (\w+)", exceptions or "") if f'id="expertune.errors.{name}"' not in page
    ] == []


@pytest.mark.slow
def test_pages_from_outside_the_folder_link_into_it(site: Path) -> None:
    assert 'href="commands.html"' in (site / "CHANGELOG.html").read_text(encoding="utf-8")
    assert 'href="../ollama.html#the-same-file-in-ollama-and-here"' in (site / "bench/index.html").read_text("utf-8")
    assert 'href="bench/index.html"' in (site / "usage.html").read_text(encoding="utf-8")
    assert (site / "examples/first_run.ipynb").read_bytes() == (ROOT / "examples/first_run.ipynb").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["[gone](gone.md)", "[gone](usage.md#gone)", "[gone](#gone)"])
def test_a_broken_link_fails_the_build(fault: str, tmp_path: Path) -> None:
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Page\n\n{fault}\n")
    (tmp_path / "docs/usage.md").write_text("# Usage\n")
    settings: dict[str, Any] = {key: value for key, value in yaml.safe_load(CONFIG.read_text()).items() if key in KEPT}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    assert build(tmp_path / "mkdocs.yml", tmp_path / "site").returncode == 1
    (tmp_path / "docs/index.md").write_text("# Page\n\n[there](usage.md#usage)\n")
    assert build(tmp_path / "mkdocs.yml", tmp_path / "site").returncode == 0


def test_every_page_has_its_place_in_the_navigation() -> None:
    """Also where MkDocs is not installed: a new page is added to mkdocs.yml."""

    def pages(nav: Any) -> list[str]:
        return (
            [nav]
            if isinstance(nav, str)
            else [x for each in (nav if isinstance(nav, list) else nav.values()) for x in pages(each)]
        )

    listed = pages(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["nav"])
    here = [page.name for page in (ROOT / "docs").glob("*.md")]
    outside = [name for name in site_hooks.OUTSIDE if name.endswith(".md")]
    assert sorted(listed) == sorted([*here, *outside, "decisions/"])
