"""`expertune …` in a process of its own, as a user starts it, or in this one, which saves loading it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expertune.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


def expertune(*arguments: object, host: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end with the Ollama server at `host`; `how` goes to subprocess.run."""
    return subprocess.run(
        [sys.executable, "-m", "expertune", *map(str, arguments)],
        env=os.environ | {"OLLAMA_HOST": host, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        **how,
    )


def expertune_here(*arguments: object) -> int:
    """Run it in this process, and give its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    return int(ended.value.code or 0)
