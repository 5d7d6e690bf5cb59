"""What the distribution of codes looks like: tests of normality and of dependence."""

import sys

from scattergen.calls.state import guard
from scattergen.diagnostics.battery import Battery, run_battery
from scattergen.diagnostics.classifiers import classifier_dependence, classifier_normality
from scattergen.diagnostics.component_grid import component_grid
from scattergen.diagnostics.dependence import PairwiseDependence, correlation_of_squares, pairwise_dependence
from scattergen.diagnostics.monte_carlo import DiagnosticTest

from scattergen.diagnostics.normality import (  # isort: skip
    NormalityTable, NormalityTest, RejectionRate, count_rejections, dagostino_k2, effect_sizes, jarque_bera,
    marginal_normality, radial, rejections_by_sample_size, sliced_normality,
)  # fmt: skip

__all__ = ["Battery", "DiagnosticTest", "NormalityTable", "NormalityTest", "PairwiseDependence", "RejectionRate"]
__all__ += ["count_rejections", "dagostino_k2", "effect_sizes", "jarque_bera", "rejections_by_sample_size"]
__all__ += ["classifier_normality", "marginal_normality", "radial", "run_battery", "sliced_normality"]
__all__ += ["classifier_dependence", "component_grid", "correlation_of_squares", "pairwise_dependence"]

guard(sys.modules[__name__], *__all__)
