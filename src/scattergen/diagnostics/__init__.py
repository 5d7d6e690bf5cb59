"""What the distribution of codes looks like: tests of normality, component by component."""

from scattergen.diagnostics.component_grid import component_grid
from scattergen.diagnostics.normality import (
    NormalityTable,
    NormalityTest,
    RejectionRate,
    count_rejections,
    dagostino_k2,
    effect_sizes,
    jarque_bera,
    rejections_by_sample_size,
)

__all__ = [
    "NormalityTable",
    "NormalityTest",
    "RejectionRate",
    "component_grid",
    "count_rejections",
    "dagostino_k2",
    "effect_sizes",
    "jarque_bera",
    "rejections_by_sample_size",
]
