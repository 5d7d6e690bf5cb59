"""Limited-memory BFGS in the unit box, for many small problems at once."""

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Values (n,) and gradients (n, D) at the points (n, D) of the problems whose numbers are given."""

_PAIRS = 10  # steps and changes of the gradient that are remembered
_SUFFICIENT = 1e-4  # part of the predicted decrease that a step must achieve (Armijo)
_BACKTRACKS = 12
_WINDOW = 20  # iterations over which a problem has to improve ...
_IMPROVEMENT = 0.01  # ... by this part of its value
_FIRST_STEP = 0.01  # root mean square of the first step, as a part of the box


def minimize_in_box(
    objective: Objective,
    start: Tensor,
    *,
    max_iterations: int,
    target: float,
    on_iteration: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Best points (N, D), values (N,) and iterations (N,) of N independent functions over [0, 1]^D.

    Each has an L-BFGS of its own (Nocedal 1980; Bertsekas, "Projected Newton methods", 1982). An iteration moves the
    coordinates that their gradient does not hold at a bound: $x \leftarrow P(x - t H g)$, with $P$ the projection on
    the box, $H$ the two-loop estimate of the inverse Hessian on the free coordinates, and t halved until the value
    falls enough. A problem ends when its value is below `target`, when it has improved by less than 1 % in 20
    iterations, or when even its gradient is no direction of descent.
    """
    points, values = start.clone(), start.new_empty(len(start))
    iterations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    rows = torch.arange(len(start), device=start.device)
    state = _Problems(objective, rows, start)
    values[rows] = state.value
    before = state.value
    for iteration in range(max_iterations):
        finished = (state.value <= target) | state.stuck
        if iteration % _WINDOW == 0 and iteration > 0:
            finished |= state.value > (1 - _IMPROVEMENT) * before
            before = state.value
        if finished.any():
            state.keep(~finished)
            before = before[~finished]
        if len(state.rows) == 0:
            break
        state.step()
        points[state.rows], values[state.rows] = state.x, state.value
        iterations[state.rows] += 1
        on_iteration()
    return points, values, iterations


class _Problems:
    """The unfinished problems: points, values, gradients and memory, one row each."""

    def __init__(self, objective: Objective, rows: Tensor, x: Tensor) -> None:
        self.objective, self.rows, self.x = objective, rows, x
        self.value, self.gradient = objective(x, rows)
        n, D = x.shape
        self.steps, self.changes = x.new_zeros(2, n, _PAIRS, D)
        self.curvature = x.new_zeros(n, _PAIRS)  # 1 / (step · change); 0 for an empty place
        self.scale = x.new_zeros(n)
        self.fresh = torch.ones(n, dtype=torch.bool, device=x.device)  # nothing remembered
        self.stuck = torch.zeros_like(self.fresh)
        self.place = 0

    def keep(self, chosen: Tensor) -> None:
        for name, tensor in vars(self).items():
            if isinstance(tensor, Tensor):
                setattr(self, name, tensor[chosen])

    def step(self) -> None:
        """One iteration of every problem."""
        x, value, gradient, failed = self._line_search(self._direction())
        step, change = x - self.x, gradient - self.gradient
        product, square = (step * change).sum(1), change.square().sum(1)
        # Positive curvature keeps the estimate positive definite.
        usable = ~failed & (product > torch.finfo(x.dtype).eps * square)
        self.steps[:, self.place] = torch.where(usable[:, None], step, 0)
        self.changes[:, self.place] = torch.where(usable[:, None], change, 0)
        self.curvature[:, self.place] = torch.where(usable, 1 / product, 0)
        self.scale = torch.where(usable, product / square, self.scale)
        self.place = (self.place + 1) % _PAIRS
        # What is remembered may be of no use once other bounds are active: forget it and go on. A problem that fails
        # without memory has nowhere to go.
        self.stuck = failed & self.fresh
        self.curvature[failed] = 0
        self.fresh = (self.fresh & ~usable) | failed
        self.x, self.value, self.gradient = x, value, gradient

    def _direction(self) -> Tensor:
        """Minus the inverse Hessian's estimate times the gradient, 0 for coordinates held."""
        held = ((self.x <= 0) & (self.gradient > 0)) | ((self.x >= 1) & (self.gradient < 0))
        q = torch.where(held, 0, self.gradient)
        first = _FIRST_STEP / q.square().mean(1).sqrt().clamp_min(torch.finfo(q.dtype).tiny)
        newest_first = [(self.place - 1 - i) % _PAIRS for i in range(_PAIRS)]
        weights = {}
        for i in newest_first:
            weights[i] = self.curvature[:, i] * (self.steps[:, i] * q).sum(1)
            q = q - weights[i][:, None] * self.changes[:, i]
        q = q * torch.where(self.fresh, first, self.scale)[:, None]
        for i in reversed(newest_first):
            correction = weights[i] - self.curvature[:, i] * (self.changes[:, i] * q).sum(1)
            q = q + correction[:, None] * self.steps[:, i]
        return torch.where(held, 0, -q)

    def _line_search(self, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Next points with values and gradients, and which problems found none."""
        x, value, gradient = self.x.clone(), self.value.clone(), self.gradient.clone()
        todo = torch.arange(len(x), device=x.device)
        t = 1.0
        for _ in range(_BACKTRACKS):
            candidate = (self.x[todo] + t * direction[todo]).clamp(0, 1)
            new_value, new_gradient = self.objective(candidate, self.rows[todo])
            predicted = (self.gradient[todo] * (candidate - self.x[todo])).sum(1)
            accepted = (predicted < 0) & (new_value <= self.value[todo] + _SUFFICIENT * predicted)
            done = todo[accepted]
            x[done], value[done] = candidate[accepted], new_value[accepted]
            gradient[done] = new_gradient[accepted]
            todo = todo[~accepted]
            if len(todo) == 0:
                break
            t /= 2
        failed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        failed[todo] = True
        return x, value, gradient, failed
