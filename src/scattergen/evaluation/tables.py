"""What all metrics share: checks of feature tables, distances in blocks, numbers with errors."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scattergen.calls.keywords import check_seed
from scattergen.errors import InputError

_BLOCK = 1 << 23  # distances that one block may hold: 64 MiB in float64, of which a few copies are alive at a time


@dataclass(frozen=True)
class Estimate:
    """A number computed from samples, and its standard deviation over draws of the samples, estimated.

    Example:
        >>> [round(end, 2) for end in Estimate(3.0, 0.5).interval]
        [2.02, 3.98]
    """

    value: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Normal 95 % confidence interval."""
        margin = 1.959964 * self.standard_error
        return self.value - margin, self.value + margin


def check_tables(minimum: int = 2, /, **tables: Tensor) -> None:
    """Refuse tables of features, by their names, that cannot be compared or have fewer rows than the minimum."""
    for name, x in tables.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 2 or not x.shape[1]:
            found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            remedy = "give a floating-point tensor (N, k), such as a feature extractor makes of images"
            raise InputError(f"{name}: {found} is no table of features: {remedy}.")
        if len(x) < minimum:
            raise InputError(f"{name}: {len(x)} rows are too few; at least {minimum} are needed.")
        if not torch.isfinite(x).all():
            row = int((~torch.isfinite(x)).any(1).nonzero()[0])
            raise InputError(f"{name}: row {row} holds NaN or an infinity: look at its image, or leave it out.")
    if len({x.shape[1] for x in tables.values()}) > 1:
        widths = ", ".join(f"{name} {x.shape[1]}" for name, x in tables.items())
        problem = f"The tables have different numbers of features ({widths})"
        raise InputError(f"{problem}: make them with one feature extractor.")


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Consecutive slices of rows such that a block of `columns` values per row takes bounded memory."""
    step = max(1, _BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared Euclidean distances (rows, M) of the rows of x (N, k) to those of y (M, k), some rows of x at a time.

    All are written to one tensor: be done with some before asking for the next.
    """
    # |x|² + |y|² − 2 x·y of centred rows, whose error is a few roundings of the largest |x|²: see `rounding`.
    centre = y.mean(0)
    y = y - centre
    norms = y.square().sum(1)
    blocks = [*row_blocks(len(x), len(y))]
    memory = y.new_empty(blocks[0].stop if blocks else 0, len(y))  # a new one each time takes a third of the time
    for rows in blocks:
        block = x[rows] - centre
        distances = torch.addmm(norms, block, y.T, alpha=-2, out=memory[: len(block)])
        yield rows, distances.add_(block.square().sum(1, keepdim=True)).clamp_(min=0)


def rounding(x: Tensor, y: Tensor) -> float:
    """Bound on the absolute error of `squared_distances`."""
    centre = y.mean(0)
    # A product of k terms is off by k roundings at worst, and k is 10 to 10,000.
    return 1e-12 * max((t - centre).square().sum(1).max().item() for t in (x, y))


@torch.no_grad()
def nearest(queries: Tensor, points: Tensor, k: int = 1, *, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """Distances (N, k) of rows `queries` (N, d) to their k nearest `points` (M, d), and the numbers of these, (N, k).

    The distances are Euclidean, increasing and float64. With `exclude_self` row i of both is the same and no neighbour
    of its own. An `InputError` if there are fewer than k points.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> distances, rows = nearest(x, x, exclude_self=True)
        >>> distances.flatten().tolist(), rows.flatten().tolist()
        ([1.0, 1.0, 4.0], [1, 0, 1])
    """
    check_tables(k + exclude_self, points=points)
    check_tables(0, queries=queries, points=points)
    queries, points = queries.double(), points.double()
    numbers = torch.empty(len(queries), k, dtype=torch.long)
    for rows, squared in squared_distances(queries, points):
        if exclude_self:
            own = torch.arange(rows.start, rows.stop)
            squared[own - rows.start, own] = math.inf
        # The nearest one alone is found in half of the time.
        found = squared.min(1, keepdim=True) if k == 1 else squared.topk(k, dim=1, largest=False, sorted=False)
        numbers[rows] = found.indices
    # Again, without the cancellation: copies are at distance 0 and not at its rounding.
    distances = torch.empty(len(queries), k, dtype=torch.float64)
    for rows in row_blocks(len(queries), k * points.shape[1]):
        distances[rows] = (queries[rows, None] - points[numbers[rows]]).square().sum(2).sqrt()
    distances, order = distances.sort(1)
    return distances, numbers.gather(1, order)


def jackknife(
    metric: Callable[[Any, Any], float], real: Tensor, samples: Tensor, *, groups: int = 10, seed: int = 0,
    prepare: Callable[[Tensor], Any] = lambda table: table,
) -> Estimate:  # fmt: skip
    r"""A metric of real images (N, k) and samples (M, k) with its standard error by the delete-group jackknife of both.

    Each table is cut into G random groups; $\theta_{-g}$ is the metric without group g:
    $\mathrm{se}^2 = \frac{G-1}{G} \sum_g (\theta_{-g} - \bar\theta)^2$, summed over both tables (Shao, Tu, "The
    Jackknife and Bootstrap", 1995). The metric is of what `prepare` makes of each table, once. An `InputError` if there
    are fewer than 2 groups, or fewer rows than groups.

    Example:
        >>> x = torch.arange(100.0, dtype=torch.float64)[:, None]
        >>> estimate = jackknife(lambda real, samples: samples.mean().item(), x, x, groups=100)
        >>> round(estimate.standard_error, 4) == round(x.std().item() / 10, 4)
        True
    """
    if groups < 2:
        raise InputError(f"groups={groups}: the jackknife needs at least 2.")
    check_tables(groups, real=real, samples=samples)
    generator = torch.Generator().manual_seed(check_seed(seed))
    variance, whole = 0.0, (prepare(real), prepare(samples))
    for side, table in enumerate((real, samples)):
        group = torch.randperm(len(table), generator=generator) % groups
        values = torch.empty(groups, dtype=torch.float64)
        for g in range(groups):
            kept = prepare(table[group != g])
            values[g] = metric(kept, whole[1]) if side == 0 else metric(whole[0], kept)
        variance += (groups - 1) / groups * (values - values.mean()).square().sum().item()
    return Estimate(metric(*whole), math.sqrt(variance))
