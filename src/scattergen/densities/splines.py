"""Monotone rational quadratic splines with linear tails, one per component, and their inverses."""

from dataclasses import dataclass

import torch
from torch import Tensor

_CLOSEST = 1e-4  # of the range of the knots; nearer ones are moved apart


@dataclass
class Splines:
    r"""Increasing, continuously differentiable functions through given knots, with linear tails.

    Between two knots a distance w apart in x and h in y, with $s = h/w$, $\theta = (x - x_j)/w$ and
    slopes $\delta_j, \delta_{j+1}$ at the knots,

    $$y = y_j + h\, \frac{s \theta^2 + \delta_j \theta (1 - \theta)}
    {s + (\delta_j + \delta_{j+1} - 2 s)\, \theta (1 - \theta)}$$

    Attributes:
        x: Knots, (d, J), increasing along each row.
        y: Values there, (d, J), increasing.
        slopes: Derivatives there, (d, J), positive.

    References:
        Gregory, Delbourgo, "Piecewise rational quadratic interpolation to monotonic data", 1982.
        Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", 2019.
    """

    x: Tensor
    y: Tensor
    slopes: Tensor

    @classmethod
    def through(cls, x: Tensor, y: Tensor) -> "Splines":
        """Splines through knots, with the slopes of Fritsch and Butland.

        Args:
            x: Knots, (d, J), not decreasing; J at least 2.
            y: Values, (d, J), not decreasing.

        Returns:
            The splines.

        References:
            Fritsch, Butland, "A method for constructing local monotone piecewise cubic
                interpolants", 1984.

        Example:
            >>> line = Splines.through(torch.tensor([[0.0, 1, 3]]), torch.tensor([[1.0, 3, 7]]))
            >>> line.slopes
            tensor([[2., 2., 2.]])
        """
        x, y = _apart(x), _apart(y)
        width = x.diff(dim=1)
        secant = y.diff(dim=1) / width
        slopes = torch.cat([secant[:, :1], secant], dim=1)
        before, after = width[:, :-1], width[:, 1:]
        a, b = (before + 2 * after) / 3, (2 * before + after) / 3  # weights of the harmonic mean
        slopes[:, 1:-1] = (before + after) / (a / secant[:, :-1] + b / secant[:, 1:])
        return cls(x, y, slopes)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Knots, values and slopes."""
        return self.x, self.y, self.slopes

    def _pieces(self, knots: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        left = (torch.searchsorted(knots, values) - 1).clamp(0, knots.shape[1] - 2)
        pairs = [(t.gather(1, left), t.gather(1, left + 1)) for t in self.parts]
        return tuple(end for pair in pairs for end in pair)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and logarithms of the derivatives.

        Args:
            x: (d, N), contiguous.

        Returns:
            Two tensors (d, N).
        """
        x0, x1, y0, y1, slope0, slope1 = self._pieces(self.x, x)
        secant = (y1 - y0) / (x1 - x0)
        theta = ((x - x0) / (x1 - x0)).clamp(0, 1)
        product = theta * (1 - theta)
        denominator = secant + (slope0 + slope1 - 2 * secant) * product
        y = y0 + (y1 - y0) * (secant * theta.square() + slope0 * product) / denominator
        # Beyond the outer knots theta is 0 or 1, and the derivative the slope there.
        y = y + slope0 * (x - x0).clamp(max=0) + slope1 * (x - x1).clamp(min=0)
        numerator = slope1 * theta.square() + 2 * secant * product + slope0 * (1 - theta).square()
        return y, 2 * (secant / denominator).log() + numerator.log()

    def inverse(self, y: Tensor) -> Tensor:
        """The x at which the splines have given values: (d, N) -> (d, N), both contiguous."""
        x0, x1, y0, y1, slope0, slope1 = self._pieces(self.y, y)
        height = y1 - y0
        secant = height / (x1 - x0)
        above = (y - y0).clamp(min=0).minimum(height)
        bend = above * (slope0 + slope1 - 2 * secant)
        a, b, c = height * (secant - slope0) + bend, height * slope0 - bend, -secant * above
        # This form of the quadratic's root does not cancel.
        theta = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        x = x0 + theta * (x1 - x0)
        return x + (y - y0).clamp(max=0) / slope0 + (y - y1).clamp(min=0) / slope1

    def to(self, like: Tensor) -> "Splines":
        """The same splines in the type and on the device of a tensor."""
        return Splines(self.x.to(like), self.y.to(like), self.slopes.to(like))


def _apart(knots: Tensor) -> Tensor:
    """Knots with the least distances raised to a small part of their range, of at least 1e-12."""
    reach = (knots[:, -1:] - knots[:, :1]).clamp(min=1e-12)
    steps = knots.diff(dim=1).maximum(_CLOSEST * reach)
    return torch.cat([knots[:, :1], knots[:, :1] + steps.cumsum(1)], dim=1)
