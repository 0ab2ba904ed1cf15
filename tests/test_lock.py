"""requirements.lock pins every declared dependency, with hashes, to a version that pyproject.toml allows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^([\w.-]+)==(\S+)((?:[^\n]*\\\n)+[^\n]*)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
HERE = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux", "platform_system": "Linux"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="this Python (3.10) cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def locked() -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by name."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = {canonicalize_name(name): (version, HASH.findall(rest)) for name, version, rest in BLOCK.findall(text)}
    lines = [line for line in text.splitlines() if line and line[0] not in " #-"]
    assert len(lines) == len(found) > 30, "each entry is one pinned version with hashes"
    return found


def declared(project: dict[str, Any]) -> list[Requirement]:
    every = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return [each for each in map(Requirement, every) if each.name != "expertune"]


def test_every_declared_dependency_is_locked_with_a_hash(
    project: dict[str, Any], locked: dict[str, tuple[str, list[str]]]
) -> None:
    wanted = declared(project)
    assert len(wanted) > 30
    assert {canonicalize_name(each.name) for each in wanted} - set(locked) == set()
    for each in wanted:
        version, hashes = locked[canonicalize_name(each.name)]
        assert hashes and each.specifier.contains(version), f"{each}: {version}"
    assert [name for name, (_, hashes) in locked.items() if not hashes] == []


def test_the_versions_are_those_of_the_constraints(locked: dict[str, tuple[str, list[str]]]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    of_here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(HERE)]
    assert len(of_here) > 30
    for pin in of_here:
        version, _ = locked[canonicalize_name(pin.name)]
        assert pin.specifier.contains(version), f"{pin}: {version}"
