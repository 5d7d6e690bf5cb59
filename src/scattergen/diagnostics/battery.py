"""All tests of codes in one table."""

from dataclasses import dataclass
from typing import Any

from scattergen.diagnostics.classifiers import classifier_dependence, classifier_normality
from scattergen.diagnostics.dependence import PairwiseDependence, correlation_of_squares, pairwise_dependence
from scattergen.diagnostics.monte_carlo import SIMULATIONS, Codes, DiagnosticTest, checked_codes
from scattergen.diagnostics.normality import marginal_normality, radial, sliced_normality
from scattergen.display.progress import SILENT, Progress


@dataclass(frozen=True)
class Battery:
    """What all tests, in the order of the table, found in the same n codes of d components."""

    tests: tuple[DiagnosticTest, ...]
    pairs: PairwiseDependence
    n: int
    d: int

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        tests = [test.summary() for test in self.tests]
        correlation = self.pairs.correlation.round(4).tolist()
        of_pairs = {"dependent_pairs": len(self.pairs.dependent()), "distance_correlation": correlation}
        return {"n": self.n, "components": self.d, "tests": tests, **of_pairs}


def run_battery(
    z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0, progress: Progress = SILENT,
    description: str = "codes",
) -> Battery:  # fmt: skip
    """Test codes (n, d) for normality and their components for independence, in each of the nine ways there are here.

    n ≥ 40, n > d ≥ 2, else an `InputError`. P-values are not adjusted for being nine; `description` is for reports.

    Example:
        >>> import torch
        >>> z = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> [test.null for test in run_battery(z, n_simulations=19).tests].count("independent")
        4
    """
    codes = checked_codes(z, components=2)
    n, d = codes.shape
    simulated: dict[str, Any] = {"n_simulations": n_simulations, "seed": seed}
    tests: list[DiagnosticTest] = []
    with progress.task(f"test {description}", total=6) as task:

        def add(*found: DiagnosticTest) -> None:
            tests.extend(found)
            task.advance(1, found[-1].name)

        add(marginal_normality(codes, **simulated), radial(codes))
        add(*sliced_normality(codes, **simulated))
        add(classifier_normality(codes, **simulated))
        add(correlation_of_squares(codes, **simulated))
        pairs = pairwise_dependence(codes, **simulated)
        add(pairs.strongest, pairs.mean)
        add(classifier_dependence(codes, **simulated))
    return Battery(tuple(tests), pairs, n, d)
