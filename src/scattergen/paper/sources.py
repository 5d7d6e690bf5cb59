"""What a stage is computed by: the text of its module, and of all that this imports, as its import statements say."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_ROOT, _FOLDER = "scattergen", Path(__file__).parents[1]
# Imported everywhere, but no number depends on them.
_NO_NUMBERS = (
    # how results are shown, but for what the paper reports; the machine is in the keys where it makes a difference
    "report", "cli", "display", "paper.findings",
    # where they are kept
    "runs", "files", "processes", "errors", "calls.keywords",
)  # fmt: skip
# The model is made of the parts of the run that a stage names. Each comes with its own code, so that what only another
# part needs changes nothing.
_WITHOUT_IMPORTS = ("model", "paper.material")
_PARTS = {
    "encoder": "encoder.scattering_encoder", "codes": "encoder.scattering_encoder",
    "decoder": "decoder.generator", "densities": "densities",
}  # fmt: skip
_ALWAYS = ("paper.material", "report.paper", "evaluation", "diagnostics.component_grid", "model", "decoder.sharpening")


def sources(modules: Iterable[str]) -> list[Path]:
    """Files of this package, sorted, that modules (their full names) compute with: their own and of all they import."""
    found, waiting = set[Path](), list(modules)
    while waiting:
        module = waiting.pop()
        path = _path(module)
        numberless = _is_one_of(module, _NO_NUMBERS) and not _is_one_of(module, ("report.paper",))
        if path is not None and path not in found and not numberless:
            found.add(path)
            if not _is_one_of(module, _WITHOUT_IMPORTS):
                waiting += _imports(path)
    return sorted(found)


def digest(modules: Iterable[str]) -> str:
    """A digest, 64 hexadecimal digits, of the text of all that modules compute with."""
    text = hashlib.sha256()
    for path in sources(modules):
        content = path.read_bytes()
        text.update(f"{path.relative_to(_FOLDER).as_posix()} {len(content)} ".encode() + content)
    return text.hexdigest()


def modules_of_stage(module: str) -> list[str]:
    """Modules that a stage computes with, apart from the parts of the run that it names."""
    return [module, *(f"{_ROOT}.{name}" for name in _ALWAYS)]


def modules_of_part(part: str) -> list[str]:
    """Modules that a part of a run, such as "densities/vae", computes with."""
    return [f"{_ROOT}.{_PARTS[part.split('/')[0]]}"]


def _is_one_of(module: str, names: tuple[str, ...]) -> bool:
    """Whether it is one of these modules, or in one of these packages."""
    return any(f"{module}.".startswith(f"{_ROOT}.{name}.") for name in names)


@cache
def _path(module: str) -> Path | None:
    """The file of a module of this package; None if there is no such module."""
    root, *names = module.split(".")
    if root != _ROOT or not names:
        return None
    stem = _FOLDER.joinpath(*names)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules that a file imports, and what it takes from them, which may be modules, too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
