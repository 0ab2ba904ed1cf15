"""The order of the layout, read from the source: who may import whom, where torch begins, how long things get."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "expertune"

# An import may only point to an entry before its own, or stay inside its package.
ROWS = (
    ("__init__", "errors", "faults", "renamed_settings", "setting", "config", "files", "log", "machine", "optional"),
    ("stats", "text"),
    ("gguf",),
    ("engine",),
    ("ratings",),
    ("outputs",),
    ("predict",),
    ("model", "train", "export", "torch_engine"),
    ("estimate",),
    ("progress",),
    ("evaluate", "record", "report_record", "report", "tracking", "workspace"),
    ("modelset", "readout", "tuned", "rate", "review_page", "register"),
    ("workflow", "fine_tuner"),
    ("cli", "__main__"),
)
ORDER = {name: place for place, name in enumerate(name for row in ROWS for name in row)}
WITH_TORCH = ("model", "train", "export", "estimate")
# what --help, check and the model-set path load; these reach the parts with torch only from inside functions
LOADED_WITHOUT_TORCH = tuple(name for name in ORDER if name not in ("model", "train", "export"))
NEEDED_TO_TUNE = {"expertune.estimate.throughput"}  # imported only where a model is tuned
FILE_LINES, FUNCTION_LINES = 320, 60
UNTYPED = 80  # subscripts with a literal key, and dictionaries of anything: records are read by their fields


class Import(NamedTuple):
    """`target` is a dotted name; `on_load` is False inside a function or under TYPE_CHECKING."""

    source: str
    target: str
    line: int
    on_load: bool


@functools.cache
def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(SOURCE.rglob("*.py"))
    }


def part(module: str) -> str:
    """`expertune.ratings.read` → `ratings`: the row's entry that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def imports(module: str, path: Path) -> Iterator[Import]:
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), module, package, True)


def _imports(node: ast.AST, module: str, package: str, on_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for target in _targets(child, package):
                yield Import(module, target, child.lineno, on_load)
        lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _type_checking(child)
        yield from _imports(child, module, package, on_load and not lazy)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    known = modules()
    # `from .train import events` names a module, `from .errors import DatasetError` a thing in one
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


EVERY_IMPORT = [found for module, path in modules().items() for found in imports(module, path)]
OWN_IMPORTS = [found for found in EVERY_IMPORT if found.target.split(".")[0] == "expertune"]


def is_torch(target: str) -> bool:
    return target.split(".")[0] in ("torch", "torchvision", "torchao", "triton")


def where(found: Import) -> str:
    return f"{found.source} line {found.line} imports {found.target}"


def test_every_module_has_its_row():
    rows = {name for row in ROWS for name in row}
    assert {part(module) for module in modules()} <= rows


def test_imports_point_upwards_only():
    wrong = [
        where(found)
        for found in OWN_IMPORTS
        if part(found.source) != part(found.target) and ORDER[part(found.target)] >= ORDER[part(found.source)]
    ]
    assert wrong == []
    assert len(OWN_IMPORTS) > 100  # the reader of the source sees them


def test_the_order_fits_in_the_head():
    assert len(ROWS) <= 14


def test_no_import_cycle_between_modules_on_load():
    edges: dict[str, set[str]] = {}
    for found in OWN_IMPORTS:
        if found.on_load and found.target != found.source:
            edges.setdefault(found.source, set()).add(found.target)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_torch_only_below_model():
    assert [
        where(found) for found in EVERY_IMPORT if is_torch(found.target) and part(found.source) not in WITH_TORCH
    ] == []
    assert any(is_torch(found.target) for found in EVERY_IMPORT)


def test_what_runs_without_torch_reaches_none_on_load():
    direct = {found.source for found in EVERY_IMPORT if found.on_load and is_torch(found.target)}
    for module in modules().keys() - NEEDED_TO_TUNE:
        if part(module) in LOADED_WITHOUT_TORCH or module == "expertune.train.events":
            assert not (reached := loaded_by(module) & direct), f"{module} loads torch by {sorted(reached)}"


def loaded_by(module: str) -> set[str]:
    """The module, the modules that it imports on load, and the packages that these lie in; and so on."""
    reached, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current in reached:
            continue
        reached.add(current)
        waiting += [found.target for found in OWN_IMPORTS if found.source == current and found.on_load]
        if "." in current:
            waiting.append(current.rpartition(".")[0])
    return reached


def test_the_events_need_no_torch_at_all():
    source = "expertune.train.events"
    assert source in modules()
    assert [
        where(found)
        for found in EVERY_IMPORT
        if found.source in (source, "expertune.train") and (is_torch(found.target) or part(found.target) == "model")
    ] == []


def test_files_and_functions_stay_small():
    texts = {module: path.read_text(encoding="utf-8") for module, path in modules().items()}
    files = {module: len(text.splitlines()) for module, text in texts.items()}
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: lines for name, lines in files.items() if lines > FILE_LINES} == {}
    assert {name: lines for name, lines in functions.items() if lines > FUNCTION_LINES} == {}


def is_untyped(node: ast.AST) -> bool:
    """True for `x["key"]` and `dict[str, Any]`."""
    if not isinstance(node, ast.Subscript) or ast.unparse(node.value) == "Literal":
        return False
    key = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    return key or ast.unparse(node) == "dict[str, Any]"


def test_untyped_dictionaries_stay_at_the_edges():
    found = [
        f"{module} line {node.lineno}: {ast.unparse(node)}"
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if is_untyped(node)
    ]
    assert len(found) < UNTYPED, "\n".join(found)
    assert any("dict[str, Any]" in each for each in found)  # it finds them


def loaded(code: str) -> set[str]:
    """Top-level names of the modules that a fresh Python holds after `code`."""
    whole = f"{code}\nimport sys\nprint('\\n' + ' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", whole],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(SOURCE.parent)},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_does_not_load_torch():
    code = (
        "import runpy, sys\nsys.argv = ['scripts/fine_tuner.py', '--help']\n"
        "try:\n    runpy.run_path('scripts/fine_tuner.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
    )
    names = loaded(code)
    assert "expertune" in names
    assert not names & {"torch", "pandas", "sklearn", "matplotlib", "scipy", "statsmodels", "xllamacpp"}


def test_a_fresh_python_loads_them_without_torch():
    """One process for all: it stops at the first module after which torch is there."""
    names = [f"expertune.{name}" for name in LOADED_WITHOUT_TORCH if f"expertune.{name}" in modules()]
    code = (
        f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    assert "expertune" in loaded(code)
