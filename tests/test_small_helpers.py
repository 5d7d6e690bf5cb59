"""Small helpers, each by an example."""

import numpy as np
import pytest

from scattergen.cli.arguments import parse_time
from scattergen.densities import GaussianMixture
from scattergen.errors import InputError
from scattergen.paper.dependence import correlation_ratio
from scattergen.paper.reproduce import fit_command
from scattergen.report.plots import axis_number, effect_sizes_by_component, rate_factor, signed
from scattergen.stages.density import choice_of_key, density_key
from scattergen.stages.fit import trial_sizes


@pytest.mark.parametrize(
    ("word", "number", "expected"),
    [
        (rate_factor, 0.1, "1/10"),
        (rate_factor, 1 / 3, "1/3"),
        (rate_factor, 1, "1"),
        (rate_factor, 10.0, "10"),
        (axis_number, 10000, "10,000"),
        (axis_number, 0.5, "0.5"),
        (signed, -18.796, "−18.8"),
        (signed, 0.5319, "+0.532"),
        (parse_time, "90", 90.0),
        (parse_time, "10m", 600.0),
        (parse_time, "1.5h", 5400.0),
    ],
)
def test_numbers_are_worded(word, number, expected):
    assert word(number) == expected


def test_small_effects_are_drawn_at_the_edge():
    figure = effect_sizes_by_component([0.0, -1.0], [2.0, 3.0])
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.01, 1.0]


def test_what_depends_on_itself_has_the_largest_ratio():
    x = np.arange(100.0)
    assert correlation_ratio(x, x) > 0.98


def test_the_command_of_a_fit_names_images_and_folder():
    assert fit_command("celeba", "faces") == "scattergen fit faces --preset celeba --out runs/celeba"


def test_a_key_tells_density_and_keywords():
    choice = choice_of_key("vae-improved", {"epochs": 5})
    assert (choice.name, choice.by_class) == ("vae", False)
    assert (choice.keywords["epochs"], choice.keywords["prior"]) == (5, "mixture")


@pytest.mark.parametrize(
    ("key", "options", "wanted"),
    [
        ("vae", {}, "vae"),
        ("vae", {"improved": True}, "vae-improved"),
        ("vae-improved", {"improved": True}, "vae-improved"),
        ("vae-improved", {"by_class": True}, "vae-improved-by-class"),
        ("vae-by-class", {"improved": True}, "vae-improved-by-class"),
        ("class_conditional", {"by_class": True}, "class_conditional"),
    ],
)
def test_keys_of_densities(key, options, wanted):
    assert density_key(key, **options) == wanted
    assert density_key(wanted) == wanted


def test_keywords_are_checked_in_a_subclass_with_a_constructor_of_its_own():
    class Few(GaussianMixture):
        def __init__(self, k):
            super().__init__(n_components=k)

    assert Few(3).n_components == 3
    with pytest.raises(InputError, match="n_components=0: give a number of at least 1"):
        Few(0)


def test_trials_of_leading_components_double():
    assert trial_sizes(7000, 512) == ([16, 32, 64, 128, 256, 512], 700, 400)
