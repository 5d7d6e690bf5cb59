"""Environments of their own for peers whose dependencies are not ours."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python_of(folder: Path, requirements: str) -> Path:
    """The interpreter of an environment, which is made if it is missing or outdated.

    Args:
        folder: Of the environment.
        requirements: Name of a file beside this one; versions of the rest are those of
            constraints.txt.
    """
    listed = ROOT / "benchmarks" / requirements
    python, installed = folder / "bin" / "python", folder / "installed"
    wanted = listed.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *install, "-c", ROOT / "constraints.txt", "-r", listed], check=True)
        installed.write_text(wanted)  # last, so that an interrupted installation is repeated
    return python
