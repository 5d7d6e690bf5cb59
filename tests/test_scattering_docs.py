"""The programs in docs/from-kymatio.md run, one after another in one namespace."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "from-kymatio.md"


def test_the_programs_of_the_page_for_kymatios_users():
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(programs) == 8
    if importlib.util.find_spec("kymatio") is None:
        programs = [program for program in programs if "import Scattering2D as Kymatio" not in program]
    namespace = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="kymatio")
        for program in programs:
            exec(program, namespace)


@pytest.mark.parametrize("name", ["from-kymatio.md", "scattering.md"])
def test_the_pages_link_to_each_other(name):
    page = PAGE.with_name(name)
    for target in re.findall(r"\]\(([\w./-]+\.md)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file()
