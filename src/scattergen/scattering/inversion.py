"""Inversion: images whose scattering coefficients are given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.scattering.box_lbfgs import minimize_in_box
from scattergen.scattering.transform import Scattering2D

Residual = Callable[[Tensor, Tensor], Tensor]
"""Weighted differences (n, R) of images (n, C, H, W) from what is wanted of the rows given (n,).

The sum of their squares is the squared relative error.
"""

# Largest value of the uniform noise that distinguishes the starts. 0.01 and 0.1 recovered as many
# of 32 MNIST digits per start, 0.3 fewer; several starts recovered most with 0.1.
_NOISE = 0.1

# A start that ends above this multiple of the tolerance is followed by another: local minima have
# errors of 1e-3 and more, while one that merely converges slowly would again.
_ANOTHER_START = 10

# Floats of one batch's first-order moduli; its gradient keeps about ten times as many.
_BATCH_FLOATS = 2**24


@dataclass(frozen=True)
class Reconstruction:
    """Images found by inversion.

    Attributes:
        images: In [0, 1], (..., H, W).
        error: Relative error of what was matched, one per problem; about 1e-3 and more means a local minimum.
        iterations: Iterations spent on each, all starts together.
    """

    images: Tensor
    error: Tensor
    iterations: Tensor


def reconstruct(
    s: Tensor,
    transform: Scattering2D,
    *,
    n_starts: int = 4,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress = SILENT,
) -> Reconstruction:
    r"""Images from scattering coefficients, by projected L-BFGS from several starts.

    Each image minimises, over pixels in [0, 1],
    $\epsilon^2 = \sum_m w_m \lVert S_m x - s_m \rVert^2 \big/ \sum_m w_m \lVert s_m \rVert^2$, where m is the order
    and $w_m$ the inverse root mean square of its coefficients $s_m$. The problem is not convex: a start ends in the
    image or in a local minimum. Starts are the low-passed image (order 0) with a little noise; those after the first
    are made only for images whose error is above ten times the tolerance, and the best is kept.

    The image of a coefficient array depends on it, the seed and the number of starts only, up to rounding, and not on
    the others of the batch.

    Args:
        s: Coefficients, (..., K, H', W'), float32 or float64; every channel is a problem of its own.
        transform: The transform that they are of.
        n_starts: Most starts per image.
        max_iterations: Most iterations per start.
        tolerance: Relative error ε at which a start ends; up to ten times it counts as solved.
        seed: Of the noise.
        device: Where to compute; where `s` is by default.
        progress: Where to report.

    Returns:
        Images (..., H, W), errors (...) and iterations (...), where `s` is.

    Raises:
        InputError: If `s` does not fit the transform or is not finite, or an argument is out of range.

    References:
        Bruna, Mallat, "Audio texture synthesis with scattering moments", 2013.
        Oyallon et al., "Scattering networks for hybrid representation learning", 2018.

    Example:
        >>> from scattergen.datasets import mnist
        >>> transform, x = Scattering2D(J=2, shape=(28, 28)), mnist().test[:1]
        >>> found = reconstruct(transform(x), transform)
        >>> found.error.item() < 1e-3, torch.allclose(found.images, x, atol=0.05)
        (True, True)
    """
    K, height, width = transform.output_shape
    if s.ndim < 3 or tuple(s.shape[-3:]) != (K, height, width):
        raise InputError(
            f"Expected coefficients of shape (..., {K}, {height}, {width}) but got "
            f"{tuple(s.shape)}: give the transform that they were computed with."
        )
    check_finite(s, "coefficients")
    batch = s.shape[:-3]
    dtype = s.dtype if s.dtype == torch.float64 else torch.float32
    wanted = s.detach().to(device or s.device, dtype).reshape(-1, 1, K, height, width)
    weights = _order_weights(wanted, transform)

    def residual(x: Tensor, rows: Tensor) -> Tensor:
        return ((transform(x) - wanted[rows]) * weights[rows]).flatten(1)

    found = multi_start(
        residual, coarse_images(wanted, transform), transform, n_starts=n_starts,
        max_iterations=max_iterations, tolerance=tolerance, seed=seed, progress=progress,
    )  # fmt: skip
    return Reconstruction(
        found.images.reshape(*batch, *transform.shape).to(s.device),
        found.error.reshape(batch).to(s.device),
        found.iterations.reshape(batch).to(s.device),
    )


def coarse_images(s: Tensor, transform: Scattering2D) -> Tensor:
    """First guesses (N, C, H, W) from coefficients (N, C, K, H', W'): their order 0, interpolated."""
    return F.interpolate(s[:, :, 0], size=transform.shape, mode="bilinear").clamp(0, 1)


def multi_start(
    residual: Residual,
    coarse: Tensor,
    transform: Scattering2D,
    *,
    n_starts: int,
    max_iterations: int,
    tolerance: float,
    seed: int,
    progress: Progress,
) -> Reconstruction:
    """Minimise the squares of residuals over images, each from several starts near its coarse one (N, C, H, W).

    The transform inside the residual sets how many images fit in memory; the noise is the same for all of them.
    """
    if n_starts < 1 or max_iterations < 1:
        raise InputError(f"n_starts={n_starts}, max_iterations={max_iterations}: both must be at least 1.")
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance}: give a relative error of 0 or more.")
    images = coarse.clone()
    value = coarse.new_full((len(coarse),), torch.inf)
    iterations = torch.zeros(len(coarse), dtype=torch.int64, device=coarse.device)
    shape = coarse.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    noise = [_NOISE * torch.rand(shape, generator=generator).to(coarse) for _ in range(n_starts)]
    solved = (_ANOTHER_START * tolerance) ** 2

    def squared_error(rows: Tensor, points: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        x = points.reshape(-1, *shape).requires_grad_()
        with torch.enable_grad():
            squares = residual(x, rows[chosen]).square().sum(1)
            (gradient,) = torch.autograd.grad(squares.sum(), x)
        return squares.detach(), gradient.flatten(1)

    M, N = transform.padded_shape
    batch_size = max(1, _BATCH_FLOATS // (shape[0] * 2 * M * N * transform.L * transform.J))
    batches = torch.arange(len(coarse), device=coarse.device).split(batch_size)
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
                skipped = max_iterations - (task.completed - before)
                task.advance(skipped, f"{int((value <= solved).sum())} of {len(coarse)} solved")
    return Reconstruction(images, value.sqrt(), iterations)


def check_finite(values: Tensor, what: str) -> None:
    """Refuse what holds NaN or infinite values or is not of a floating type."""
    if not values.is_floating_point():
        raise InputError(f"The {what} are {values.dtype}: give float32 or float64.")
    if not torch.isfinite(values).all():
        raise InputError(f"The {what} hold NaN or infinite values: check where they come from.")


def _order_weights(s: Tensor, transform: Scattering2D) -> Tensor:
    """Square roots of the normalised weights, (N, 1, K, 1, 1), of coefficients (N, 1, K, H', W').

    An order's squared error is divided by its root mean square. Undivided, the high orders hardly count and inversion
    stops in more local minima; divided by the mean square it is ill-conditioned and no better (docs/notes/log.md).
    """
    order = torch.tensor([path.order for path in transform.paths], device=s.device)
    energy = s.square().mean((1, 3, 4))  # (N, K)
    mean_square = torch.stack([energy[:, order == m].mean(1) for m in range(transform.max_order + 1)], 1)[:, order]
    # An order that vanishes is matched as well as one 1e-6 times as large as the largest; a blank
    # image, in which all do, with any finite weights.
    floor = 1e-12 * mean_square.amax(1, keepdim=True)
    weights = mean_square.maximum(torch.where(floor > 0, floor, 1)).rsqrt()
    norm = (weights * energy).sum(1, keepdim=True) * s.shape[-1] * s.shape[-2]
    weights = weights / torch.where(norm > 0, norm, 1)
    return weights.sqrt()[:, None, :, None, None]
