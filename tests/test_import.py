"""What importing costs, and that the command line's defaults are the library's."""

import inspect
import json
import subprocess
import sys
import typing

import pytest

import scattergen
from scattergen.cli import looking
from scattergen.diagnostics.monte_carlo import FEWEST_CODES, SIMULATIONS
from scattergen.pipeline.evaluate import CODES, COMPONENTS, FeatureName

SLOW = {"torch", "numpy", "scipy", "matplotlib", "PIL", "numba", "sklearn", "safetensors", "jinja2"}


@pytest.mark.parametrize(
    "code",
    [
        "import scattergen; scattergen.__version__; dir(scattergen)",
        "import scattergen; scattergen.InputError",
        "import scattergen.cli",
        "import sys; sys.argv = ['scattergen', '--help']\nimport scattergen.cli\n"
        "try: scattergen.cli.main()\nexcept SystemExit: pass\nassert 'rich' not in sys.modules",
        "import sys; sys.argv = ['scattergen', '--version']\nimport scattergen.cli\n"
        "try: scattergen.cli.main()\nexcept SystemExit: pass\nassert 'pydantic' not in sys.modules",
        "import sys; sys.argv = ['scattergen', 'samle', 'runs/a']\nimport scattergen.cli\n"
        "try: scattergen.cli.main()\nexcept SystemExit: pass\nassert not {'pydantic', 'rich'} & {*sys.modules}",
        "import sys; sys.argv = ['scattergen', 'sample', 'runs/a', '--outt', 'b']\nimport scattergen.cli\n"
        "try: scattergen.cli.main()\nexcept SystemExit: pass\nassert 'rich' not in sys.modules",
    ],
    ids=["package", "name", "command line", "help", "version", "mistyped command", "mistyped option"],
)
def test_nothing_slow_is_imported_before_it_is_needed(code):
    tell = "import sys, json; print('\\n' + json.dumps(sorted(m for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "scattergen" in modules
    assert not SLOW.intersection(modules)


def test_templates_are_for_those_who_make_a_page():
    code = "import sys, scattergen.paper, scattergen.report\nassert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in scattergen.__all__:
        assert getattr(scattergen, name) is not None
    assert set(scattergen.__all__) <= set(dir(scattergen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = scattergen.nothing


def test_the_command_lines_defaults_are_the_librarys():
    """They are written twice, since the library's modules take seconds to import."""
    parameters = inspect.signature(looking.diagnose).parameters
    found = {name: parameters[name].default for name in ("components", "n", "simulations")}
    assert found == {"components": COMPONENTS, "n": CODES, "simulations": SIMULATIONS}
    assert typing.get_args(parameters["n"].annotation)[1].min == FEWEST_CODES
    features = inspect.signature(looking.evaluate).parameters["features"].annotation
    literal = typing.get_args(typing.get_args(features)[0])[0]
    assert typing.get_args(literal) == typing.get_args(FeatureName)
