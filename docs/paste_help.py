"""Pastes the --help of every command into docs/commands.md.

    python docs/paste_help.py            # writes the page
    python docs/paste_help.py --check    # exits with 1 where the page is stale

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
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    new, count = between.subn(lambda _: f"{BEGIN}\n\n{sections}\n{END}", page)
    if count != 1:
        raise SystemExit(f"error: {PAGE}: needs one line {BEGIN} and, after it, one line {END}")
    return new


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = pasted(page)
    if "--check" in arguments:
        if new != page:
            print("docs/commands.md is stale; run `make docs`", file=sys.stderr)
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    raise SystemExit(main(sys.argv[1:]))
