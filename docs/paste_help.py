"""Pastes the --help of every command into docs/commands.md, and every setting into docs/reference.md.

    python docs/paste_help.py            # writes the pages
    python docs/paste_help.py --check    # exits with 1 where a page is stale

The text is the same on every terminal: 100 columns, no colours, no boxes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "commands.md"
WIDTH = 100
BEGIN, END = "<!-- pasted by docs/paste_help.py -->", "<!-- end -->"
REFERENCE = ROOT / "docs" / "reference.md"
SETTINGS = "<!-- settings, pasted by docs/paste_help.py -->"
KINDS = {bool: "True, False", str: "a name", tuple: "names", Path: "a path"}


def help_texts() -> dict[str, str]:
    """Return what `--help` prints, by command line: "expertune", "expertune tune" and so on."""
    import typer

    from expertune.cli.main import app

    group = typer.main.get_command(app)
    commands = {"expertune": group}
    commands |= {f"expertune {name}": command for name, command in group.commands.items()}  # pyright: ignore[reportAttributeAccessIssue]
    texts = {}
    for usage, command in commands.items():
        command.rich_markup_mode = None  # pyright: ignore[reportAttributeAccessIssue]  # rich draws boxes as wide as the terminal
        context = command.context_class(command, info_name=usage, terminal_width=WIDTH, color=False)
        texts[usage] = "\n".join(line.rstrip() for line in command.get_help(context).splitlines()).strip()
    return texts


def pasted(page: str) -> str:
    """Return the page with the present help of every command between its markers."""
    sections = "\n".join(f"## {usage}\n\n```text\n{text}\n```\n" for usage, text in help_texts().items())
    return between(page, BEGIN, sections, PAGE)


def between(page: str, begin: str, text: str, path: Path) -> str:
    """Replace what is between the line `begin` and the line END after it."""
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
    new, count = found.subn(lambda _: f"{begin}\n\n{text}\n{END}", page)
    if count != 1:
        raise SystemExit(f"error: {path}: needs one line {begin} and, after it, one line {END}")
    return new


def with_settings(page: str) -> str:
    """Return the page of the Python interface with a table of every setting."""
    from expertune.config import Setting, settings

    def row(setting: Setting) -> str:
        values = ", ".join((*(setting.choices or ()), *setting.words, setting.reach())).strip(", ")
        default = "" if setting.default in (None, ()) else f"`{setting.default}`"
        return f"| `{setting.name}` | {default} | {values or KINDS[setting.kind]} | {setting.help} |"

    lines = ("| name | default | values | meaning |", "|---|---|---|---|", *map(row, settings()))
    return between(page, SETTINGS, "\n".join(lines) + "\n", REFERENCE)


def main(arguments: list[str]) -> int:
    stale = 0
    for path, paste in ((PAGE, pasted), (REFERENCE, with_settings)):
        page = path.read_text(encoding="utf-8")
        if (new := paste(page)) == page:
            continue
        stale = 1
        if "--check" in arguments:
            print(f"docs/{path.name} is stale; run `make docs`", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8", newline="\n")
    return stale if "--check" in arguments else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    raise SystemExit(main(sys.argv[1:]))
