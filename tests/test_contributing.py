"""CONTRIBUTING.md: its map is the tree, and its first changes work as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import scattergen as sg

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sg.__file__).parent
GUIDE = ROOT / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="the guide is not in this copy")


def changes():
    """Title to the blocks of each of the first changes: their kinds and texts."""
    text = GUIDE.read_text().partition("## Three first changes")[2].partition("\n## ")[0]
    parts = re.split(r"^\*\*(.+?)\*\*", text, flags=re.M)[1:]
    return {
        title: re.findall(r"^```(\w*)\n(.*?)^```", part, flags=re.M | re.S)
        for title, part in zip(parts[::2], parts[1::2], strict=True)
    }


def apply(block, root):
    """Make one change in a copy; the file that it touches."""
    first, _, code = block.partition("\n")
    new = re.fullmatch(r"# new file: (\S+)", first)
    if new is not None:
        path = root / new[1]
        assert not path.exists()
        path.write_text(code)
        return path
    path, line = re.fullmatch(r"# in (\S+), below: (.+)", first).groups()
    before = (root / path).read_text()
    at = re.findall(rf"^ *{re.escape(line)}\n", before, flags=re.M)
    assert len(at) == 1, f"{line} stands {len(at)} times in {path}"
    (root / path).write_text(before.replace(at[0], at[0] + code))
    return root / path


@pytest.fixture
def copy(tmp_path):
    """The package, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "src" / "scattergen", ignore=ignored)
    return tmp_path


def scattergen_of(copy, *arguments):
    """Run the command line of a copy."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy / "src"), os.environ["PYTHONPATH"]])}
    # Without the compiled kernel, which would be compiled anew for each copy.
    program = "import sys; sys.modules['numba'] = None; from scattergen.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("title", ["A density", "A loss", "A stage with a command"])
def test_the_first_changes_work(title, copy, run_copy, digits, tiny):
    blocks = changes()[title]
    touched = {apply(text, copy) for kind, text in blocks if kind == "python"}
    assert 2 <= len(touched) <= 3
    (command,) = (text.split() for kind, text in blocks if kind == "")
    assert command[0] == "scattergen"
    places = {"RUN": run_copy, "IMAGES": digits}
    arguments = [places.get(word, word) for word in command[1:]]
    if arguments[0] == "fit":
        arguments[arguments.index("--out") + 1] = copy / "fitted"
        few = [word for word in tiny[2:] if word != "--set" and "densities." not in word]
        arguments += [word for one in few if "loss" not in one for word in ("--set", one)]
        arguments += ["--densities", "gaussian", "-q"]
    said = scattergen_of(copy, *arguments)
    assert said
    if arguments[0] != "fit":
        files = sorted(run_copy.rglob("*.safetensors"))
        again = scattergen_of(copy, *arguments)
        assert again == said or "nothing to do" in again
        assert sorted(run_copy.rglob("*.safetensors")) == files
    if title == "A density":
        scattergen_of(copy, "sample", run_copy, "--density", "shuffled", "-n", "4", "--out", copy / "new.png")


def test_the_map_is_the_tree():
    table = GUIDE.read_text().partition("| place in `src/scattergen/`")[2].partition("\n\n")[0]
    named = {
        name.rstrip("/") for row in table.splitlines()[2:] for name in re.findall(r"`([\w/]+)`", row.split("|")[1])
    }
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert named == there - {"__init__", "__main__"}
