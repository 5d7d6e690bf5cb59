"""Inversion: images whose scattering coefficients are given, by L-BFGS in the unit box for many images at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from scattergen.calls.state import usual_state
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.scattering.transform import Scattering2D

# Largest value of the uniform noise that distinguishes the starts. 0.01 and 0.1 recovered as many of 32 MNIST digits
# per start, 0.3 fewer; several starts recovered most with 0.1.
_NOISE = 0.1
# A start that ends above this multiple of the tolerance is followed by another: local minima have errors of 1e-3 and
# more, while one that merely converges slowly would again.
_ANOTHER_START = 10
_BATCH_FLOATS = 2**24  # of one batch's first-order moduli; its gradient keeps about ten times as many
_PAIRS = 10  # steps and changes of the gradient that are remembered
_SUFFICIENT = 1e-4  # part of the predicted decrease that a step must achieve (Armijo)
_BACKTRACKS = 12
_WINDOW, _IMPROVEMENT = 20, 0.01  # iterations over which a problem has to improve, by this part of its value
_FIRST_STEP = 0.01  # root mean square of the first step, as a part of the box

# Values (n,) and gradients (n, D) at the points (n, D) of the problems whose numbers are given.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Reconstruction:
    """Images found by inversion."""

    images: Tensor  # in [0, 1], (..., H, W)
    error: Tensor  # relative, of what was matched, one per problem; about 1e-3 and more means a local minimum
    iterations: Tensor  # spent on each, all starts together


@usual_state()
def reconstruct(
    s: Tensor, transform: Scattering2D, *, n_starts: int = 4, max_iterations: int = 200, tolerance: float = 1e-4,
    seed: int = 0, device: str | torch.device | None = None, progress: Progress = SILENT,
) -> Reconstruction:  # fmt: skip
    r"""Images from scattering coefficients, by projected L-BFGS from several starts.

    Each image minimises, over pixels in [0, 1],
    $\epsilon^2 = \sum_m w_m \lVert S_m x - s_m \rVert^2 \big/ \sum_m w_m \lVert s_m \rVert^2$, where m is the order
    and $w_m$ the inverse root mean square of its coefficients $s_m$ (Bruna, Mallat, "Audio texture synthesis with
    scattering moments", 2013; Oyallon et al., "Scattering networks for hybrid representation learning", 2018). A start,
    the low-passed image (order 0) with a little noise, ends in the image or in a local minimum, and the best is kept,
    which depends on the image's own coefficients, the seed and the number of starts only, up to rounding.

    Args:
        s: Coefficients, (..., K, H', W'), float32 or float64; every channel is a problem of its own.
        transform: The transform that they are of.
        n_starts: Most starts per image; those after the first are made while its error is above ten tolerances.
        max_iterations: Most iterations per start.
        tolerance: Relative error ε at which a start ends.
        seed: Of the noise.
        device: Where to compute; where `s` is by default, and where what is found is in any case.
        progress: Where to report.

    Raises:
        InputError: If `s` does not fit the transform or is not finite, or an argument is out of range.

    Example:
        >>> from scattergen.datasets import mnist
        >>> transform, x = Scattering2D(J=2, shape=(28, 28)), mnist().test[:1]
        >>> found = reconstruct(transform(x), transform)
        >>> found.error.item() < 1e-3, torch.allclose(found.images, x, atol=0.05)
        (True, True)
    """
    if tuple(s.shape[-3:]) != transform.output_shape:
        expected = "Expected coefficients of shape (..., {}, {}, {})".format(*transform.output_shape)
        remedy = "give the transform that they were computed with"
        raise InputError(f"{expected} but got {tuple(s.shape)}: {remedy}.")
    check_finite(s, "coefficients")
    batch = s.shape[:-3]
    dtype = s.dtype if s.dtype == torch.float64 else torch.float32
    wanted = s.detach().to(device or s.device, dtype).reshape(-1, 1, *transform.output_shape)
    weights = _order_weights(wanted, transform)

    def residual(x: Tensor, rows: Tensor) -> Tensor:
        return ((transform(x) - wanted[rows]) * weights[rows]).flatten(1)

    found = multi_start(
        residual, wanted, transform, n_starts=n_starts,
        max_iterations=max_iterations, tolerance=tolerance, seed=seed, progress=progress,
    )  # fmt: skip
    images = found.images.reshape(*batch, *transform.shape).to(s.device)
    error, iterations = (values.reshape(batch).to(s.device) for values in (found.error, found.iterations))
    return Reconstruction(images, error, iterations)


def multi_start(
    residual: Callable[[Tensor, Tensor], Tensor], s: Tensor, transform: Scattering2D, *, n_starts: int,
    max_iterations: int, tolerance: float, seed: int, progress: Progress,
) -> Reconstruction:  # fmt: skip
    """Minimise squared residuals over images, each from several starts near order 0 of its coefficients (C, K, H', W').

    `residual` gives the weighted differences (n, R) of images (n, C, H, W) from what is wanted of the rows given (n,).
    """
    if n_starts < 1 or max_iterations < 1:
        raise InputError(f"n_starts={n_starts}, max_iterations={max_iterations}: both must be at least 1.")
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance}: give a relative error of 0 or more.")
    coarse = F.interpolate(s[:, :, 0], size=transform.shape, mode="bilinear").clamp(0, 1)
    images, value = coarse.clone(), coarse.new_full((len(coarse),), torch.inf)
    numbers = torch.arange(len(coarse), device=coarse.device)
    iterations, shape = torch.zeros_like(numbers), coarse.shape[1:]
    generator = torch.Generator().manual_seed(seed)  # the noise is the same for all images
    noise = [_NOISE * torch.rand(shape, generator=generator).to(coarse) for _ in range(n_starts)]
    solved = (_ANOTHER_START * tolerance) ** 2

    def squared_error(rows: Tensor, points: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        x = points.reshape(-1, *shape).requires_grad_()
        with torch.enable_grad():
            squares = residual(x, rows[chosen]).square().sum(1)
            (gradient,) = torch.autograd.grad(squares.sum(), x)
        return squares.detach(), gradient.flatten(1)

    M, N = transform.padded_shape
    batches = numbers.split(max(1, _BATCH_FLOATS // (shape[0] * 2 * M * N * transform.L * transform.J)))
    with progress.task("inversion", len(batches) * n_starts * max_iterations) as task:
        for batch in batches:
            for k in range(n_starts):
                rows = batch[value[batch] > solved]
                before = task.completed
                if len(rows) > 0:
                    points, values, used = minimize_in_box(
                        partial(squared_error, rows), (coarse[rows] + noise[k]).clamp(0, 1).flatten(1),
                        max_iterations=max_iterations, target=tolerance**2, on_iteration=task.advance,
                    )  # fmt: skip
                    better = values < value[rows]
                    images[rows[better]] = points[better].reshape(-1, *shape)
                    value[rows[better]] = values[better]
                    iterations[rows] += used
                skipped = before + max_iterations - task.completed
                task.advance(skipped, f"{int((value <= solved).sum())} of {len(coarse)} solved")
    return Reconstruction(images, value.sqrt(), iterations)


def check_finite(values: Tensor, what: str) -> None:
    """Refuse what holds NaN or infinite values or is not of a floating type."""
    if not values.is_floating_point():
        raise InputError(f"The {what} are {values.dtype}: give float32 or float64.")
    if not torch.isfinite(values).all():
        raise InputError(f"The {what} hold NaN or infinite values: check where they come from.")


def _order_weights(s: Tensor, transform: Scattering2D) -> Tensor:
    """Square roots of the normalised weights, (N, 1, K, 1, 1), of coefficients (N, 1, K, H', W')."""
    # An order's squared error is divided by its root mean square. Undivided, the high orders hardly count and inversion
    # stops in more local minima; divided by the mean square it is ill-conditioned and no better (docs/notes/log.md).
    order = torch.tensor([path.order for path in transform.paths], device=s.device)
    energy = s.square().mean((1, 3, 4))  # (N, K)
    mean_square = torch.stack([energy[:, order == m].mean(1) for m in range(transform.max_order + 1)], 1)[:, order]
    # An order that vanishes is matched as well as one 1e-6 times as large as the largest; a blank image, in which all
    # do, with any finite weights.
    floor = 1e-12 * mean_square.amax(1, keepdim=True)
    weights = mean_square.maximum(torch.where(floor > 0, floor, 1)).rsqrt()
    norm = (weights * energy).sum(1, keepdim=True) * s.shape[-1] * s.shape[-2]
    return (weights / torch.where(norm > 0, norm, 1)).sqrt()[:, None, :, None, None]


def minimize_in_box(
    objective: Objective, start: Tensor, *, max_iterations: int, target: float,
    on_iteration: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Best points (N, D), values (N,) and iterations (N,) of N functions over [0, 1]^D, each with an L-BFGS of its own.

    This is of coordinates not held at a bound (Nocedal 1980; Bertsekas, "Projected Newton methods", 1982).
    """
    rows = torch.arange(len(start), device=start.device)
    state = _Problems(objective, rows, start)
    points, values, iterations = start.clone(), state.value.clone(), torch.zeros_like(rows)
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
