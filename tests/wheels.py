"""Wheels made in a test, and pip that sees nothing but a folder of them: the package index without a network."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest


def write_wheel(folder: Path, package: str, member: str, data: bytes, *, version: str = "1.0.0") -> None:
    """A wheel of `package` that holds `data` as PACKAGE/member."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/{member}", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}/{member},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def only_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find the wheels in `folder`, whatever the machine's own configuration says."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
