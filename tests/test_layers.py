"""The order of the rooms of the house: nothing imports what lies above it."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import scattergen as sg

PACKAGE = Path(sg.__file__).parent

# From the ground up; rooms of one floor do not know each other.
FLOORS = (
    ("errors", "display"),
    ("calls", "files", "image_quality", "processes"),
    ("datasets", "scattering"),
    ("encoder", "training"),
    ("decoder", "densities", "runs"),
    ("diagnostics", "evaluation"),
    ("report", "stages"),
    ("model", "sklearn"),
    ("pipeline",),
    ("explorer", "paper", "sharing"),
    ("__init__", "cli"),
    ("__main__",),
)
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOT = Path(__file__).parent.parent
PROGRAMS = [path for folder in ("benchmarks", "examples", "tools") for path in sorted((ROOT / folder).glob("*.py"))]


def room_of(module):
    """The room of a module by its full name; that of the package itself is "__init__"."""
    return [*module.split("."), "__init__"][1]


def imported(path):
    """Full names of all modules of the package that a file imports, at any place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "scattergen" else [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_has_its_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms == set(LEVELS)
    assert len(rooms) <= 26, "a house that can be overlooked; join rooms rather than add one"
    assert len(FLOORS) <= 12


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_what_lies_above_it(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":  # which imports when it is asked, from everywhere
        return
    for name in imported(path):
        if name.partition(".")[0] == "scattergen" and room_of(name) != room:
            assert LEVELS[room_of(name)] < LEVELS[room], f"{name} lies above {room}"


def test_an_import_of_what_lies_above_would_be_found(tmp_path):
    file = tmp_path / "files.py"
    file.write_text("def f():\n    from scattergen.model import x\n    import scattergen.cli as c\n")
    assert [LEVELS[room_of(name)] > LEVELS["files"] for name in imported(file)] == [True, True]
    file.write_text("from scattergen import paper, errors\n")
    assert [room_of(name) for name in imported(file)] == ["paper", "errors"]


def lacking(path):
    """What a file imports from the package by name that is not there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "scattergen":
            try:
                module = import_module(node.module)
            except ModuleNotFoundError:
                yield node.module
                continue
            for alias in node.names:
                submodule = hasattr(module, "__path__") and find_spec(f"{node.module}.{alias.name}")
                if not hasattr(module, alias.name) and not submodule:
                    yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.name)
def test_benchmarks_examples_and_tools_keep_up_with_the_package(path):
    """They run for minutes, and no test runs them all."""
    assert [*lacking(path)] == []


def test_what_is_not_there_would_be_found(tmp_path):
    file = tmp_path / "program.py"
    file.write_text("from scattergen.nowhere import a\nfrom scattergen.errors import InputError, Wrong\n")
    assert [*lacking(file)] == ["scattergen.nowhere", "scattergen.errors.Wrong"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path):
    """400 lines; 60 lines of code; 10 parameters, but for constructors and `fit`."""
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1:2] if ast.get_docstring(node) else node.body[:1]
            body = lines[first[0].lineno - 1 : node.end_lineno] if first else []
            assert sum(not line.lstrip().startswith("#") and bool(line.strip()) for line in body) <= 60, node.name
            given = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
            if node.name not in ("__init__", "fit"):
                assert len(given) <= 10, node.name
