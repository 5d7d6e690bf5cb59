"""The two-dimensional scattering transform as a differentiable PyTorch module."""

from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from scattergen.errors import InputError
from scattergen.scattering.filters import filter_bank, low_frequencies, low_pass_matrix
from scattergen.scattering.plan import Plan, build_plan

# Intermediate spectra of one chunk of images should stay in a core's second-level cache: on the
# development machine 28x28 images ran fastest in chunks of 16-64, 128x128x3 in chunks of 1-4.
_CHUNK_FLOATS = 2**20


@lru_cache
def compiled_kernels() -> ModuleType | None:
    """The module with the compiled CPU kernel.

    Returns:
        The module, imported on the first call, or None where Numba is missing or cannot work.
    """
    try:
        from scattergen.scattering import kernels
    except (ImportError, RuntimeError):  # Numba's errors: NumPy too new; no place to cache code
        return None
    return kernels


class Path(NamedTuple):
    """One scattering path; unused entries are None.

    Attributes:
        order: 0, 1 or 2.
        j1: Scale of the first wavelet.
        theta1: Orientation index of the first wavelet.
        j2: Scale of the second wavelet, larger than j1.
        theta2: Orientation index of the second wavelet.
    """

    order: int
    j1: int | None = None
    theta1: int | None = None
    j2: int | None = None
    theta2: int | None = None


class _Modulus(torch.autograd.Function):
    """|x| of complex x with the subgradient 0 at x = 0, where the modulus has no derivative."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        modulus = _fast_modulus(x)
        ctx.save_for_backward(x, modulus)
        return modulus

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x, modulus = ctx.saved_tensors
        # x is 0 wherever the modulus is, so the value that replaces 0/0 does not matter.
        return gradient * x / torch.where(modulus == 0, 1, modulus)


def _fast_modulus(x: Tensor) -> Tensor:
    # torch.abs of complex numbers guards against overflow of the squares, at 2-3 times the cost.
    parts = torch.view_as_real(x)
    return torch.addcmul(parts[..., 0].square(), parts[..., 1], parts[..., 1]).sqrt_()


def _modulus(x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Modulus.apply(x)
    return _fast_modulus(x)


def _is_plain(x: Tensor) -> bool:
    """Whether x is memory of this computer of which nothing but the values is asked."""
    return (
        x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.compiler.is_compiling()
        and forward_ad.unpack_dual(x).tangent is None
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # inside vmap, grad or jvp
    )


def padded_size(size: int, J: int) -> int:
    """Length of an axis after padding, the multiple of 2^J that leaves a margin of 2^J.

    Args:
        size: Length of the axis in pixels.
        J: Number of scales.

    Returns:
        Padded length in pixels.

    Example:
        >>> padded_size(28, 2), padded_size(128, 4)
        (36, 160)
    """
    return ((size + 2**J) // 2**J + 1) * 2**J


def _reflection(size: int, padded: int) -> Tensor:
    """Source index of every padded position; the edge sample is not repeated."""
    before = (padded - size) // 2
    position = torch.arange(-before, padded - before)
    last = size - 1  # at least 1
    return last - (position % (2 * last) - last).abs()


class Scattering2D(nn.Module):
    r"""Wavelet scattering transform of order at most two.

    $S x = \{x \star \phi,\ |x \star \psi_{\lambda_1}| \star \phi,\
    ||x \star \psi_{\lambda_1}| \star \psi_{\lambda_2}| \star \phi\}$, subsampled by 2^J.

    Coefficients, their order, the padding and the filters' conventions are those of Kymatio's
    `Scattering2D`.  The transform is differentiable; the modulus has subgradient 0 at 0.

    Args:
        J: Scale: the low-pass averages over about 2^J pixels; 2^J may not exceed a side.
        shape: Image size (H, W) in pixels.
        L: Number of orientations.
        max_order: 0, 1 or 2.

    Attributes:
        paths: The K paths in the order of the output's channels.
        output_shape: (K, H', W') of one single-channel image.

    Raises:
        InputError: If an argument is out of range.

    References:
        Bruna, Mallat, "Invariant scattering convolution networks", 2013.
        Andreux et al., "Kymatio: scattering transforms in Python", 2020.

    Example:
        >>> scattering = Scattering2D(J=2, shape=(28, 28))
        >>> scattering(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 1, 81, 7, 7])
    """

    def __init__(self, J: int, shape: tuple[int, int], L: int = 8, max_order: int = 2) -> None:
        super().__init__()
        rows, columns = shape
        shorter = min(rows, columns)
        if shorter < 2:
            raise InputError(f"Images of {rows}x{columns} pixels: each side needs at least 2.")
        if not 1 <= J < shorter.bit_length():
            raise InputError(
                f"J={J} does not fit images of {rows}x{columns} pixels: choose J between 1 and "
                f"{shorter.bit_length() - 1}, so that 2^J is at most the shorter side."
            )
        if L < 1:
            raise InputError(f"L={L} orientations: choose at least 1 (8 is usual).")
        if max_order not in (0, 1, 2):
            raise InputError(f"max_order={max_order}: choose 0, 1 or 2.")
        self.J, self.L, self.max_order = J, L, max_order
        self.shape = (rows, columns)
        self.padded_shape = (padded_size(rows, J), padded_size(columns, J))
        self.paths = self._paths()
        margin = 2 * 2**J
        self.output_shape = (
            len(self.paths),
            (self.padded_shape[0] - margin) // 2**J,
            (self.padded_shape[1] - margin) // 2**J,
        )
        self._constants: dict[tuple[torch.dtype, torch.device], _Constants] = {}
        self._plans: dict[torch.dtype, Plan] = {}

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return f"J={self.J}, shape={self.shape}, L={self.L}, max_order={self.max_order}"

    def _paths(self) -> tuple[Path, ...]:
        J, L = self.J, self.L
        paths = [Path(0)]
        first = [(j1, theta1) for j1 in range(J) for theta1 in range(L)]
        if self.max_order >= 1:
            paths += [Path(1, j1, theta1) for j1, theta1 in first]
        if self.max_order == 2:
            paths += [
                Path(2, j1, theta1, j2, theta2)
                for j1, theta1 in first
                for j2 in range(j1 + 1, J)
                for theta2 in range(L)
            ]
        return tuple(paths)

    def forward(self, x: Tensor) -> Tensor:
        """Scattering coefficients of images.

        Args:
            x: Images, (..., H, W), float32 or float64 (lower precisions are computed in float32).

        Returns:
            Coefficients, (..., K, H', W'), in the precision of the computation.

        Raises:
            InputError: If the last two axes are not the `shape` given at construction.
        """
        if x.ndim < 2 or tuple(x.shape[-2:]) != self.shape:
            raise InputError(
                f"This transform was built for images of {self.shape[0]}x{self.shape[1]} pixels "
                f"but got an array of shape {tuple(x.shape)}: build another Scattering2D or resize "
                "the images."
            )
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        batch = x.shape[:-2]
        if x.numel() == 0:  # which the FFT refuses
            return x.new_empty(*batch, *self.output_shape)
        flat = x.reshape(-1, *self.shape)
        if _is_plain(flat) and (kernels := compiled_kernels()) is not None:
            s = kernels.scatter_batch(flat.detach(), self._plan_for(x.dtype))
            return s.reshape(*batch, *self.output_shape)
        constants = self._constants_for(x.dtype, x.device)
        # Matrix products would otherwise run in the half precision of a surrounding autocast.
        with torch.autocast(x.device.type, enabled=False):
            chunks = [
                self._scatter(chunk, constants) for chunk in flat.split(self._chunk(x.device))
            ]
        return torch.cat(chunks).reshape(*batch, *self.output_shape)

    def _chunk(self, device: torch.device) -> int:
        rows, columns = self.padded_shape
        floats_per_image = 2 * rows * columns * self.L * max(1, self.J - 1)
        budget = _CHUNK_FLOATS if device.type == "cpu" else 256 * _CHUNK_FLOATS
        return max(1, budget // floats_per_image)

    def _scatter(self, x: Tensor, c: "_Constants") -> Tensor:
        """Coefficients of a chunk: x (B, H, W) -> (B, K, H', W')."""
        J = self.J
        x = x[:, c.pad_rows[:, None], c.pad_columns]  # (B, M, N)
        orders: list[list[Tensor]] = [[c.low_pass(x, 0)[:, None]], [], []]
        if self.max_order >= 1:
            x_hat = torch.fft.fft2(x)
            for j1 in range(J):
                u1 = _modulus(torch.fft.ifft2(c.filters[0, j1](x_hat)))
                orders[1].append(c.low_pass(u1, j1))  # u1: (B, L, M/2^j1, N/2^j1)
                if self.max_order == 2 and j1 < J - 1:
                    u1_hat = torch.fft.fft2(u1)
                    second = [
                        c.low_pass(_modulus(torch.fft.ifft2(c.filters[j1, j2](u1_hat))), j2)
                        for j2 in range(j1 + 1, J)
                    ]  # each (B, L, L, H', W')
                    orders[2].append(torch.stack(second, 2).flatten(1, 3))
        return torch.cat([block for order in orders for block in order], 1)

    def _plan_for(self, dtype: torch.dtype) -> Plan:
        if dtype not in self._plans:
            M, N = self.padded_shape
            source = _reflection(self.shape[0], M), _reflection(self.shape[1], N)
            bank = filter_bank(self.padded_shape, self.J, self.L)
            self._plans[dtype] = build_plan(bank, source, self.output_shape, self.max_order, dtype)
        return self._plans[dtype]

    def _constants_for(self, dtype: torch.dtype, device: torch.device) -> "_Constants":
        key = (dtype, device)
        if key not in self._constants:
            self._constants[key] = _Constants(self, dtype, device)
        return self._constants[key]


class _Constants:
    """Filters, low-pass matrices and padding indices of one transform on one device and dtype."""

    def __init__(self, transform: Scattering2D, dtype: torch.dtype, device: torch.device) -> None:
        M, N = transform.padded_shape
        J = transform.J
        bank = filter_bank(transform.padded_shape, J, transform.L)
        self.pad_rows = _reflection(transform.shape[0], M).to(device)
        self.pad_columns = _reflection(transform.shape[1], N).to(device)
        self.filters: dict[tuple[int, int], _Wavelets] = {}
        for j in range(J):
            for level in range(max(j, 1)):
                rows, columns = low_frequencies(M, level), low_frequencies(N, level)
                cropped = bank.psi[j][:, rows[:, None], columns]
                self.filters[level, j] = _Wavelets(cropped.to(device, dtype), 2 ** (j - level))
        self.left = [
            low_pass_matrix(bank.phi_rows, level, J).to(device, dtype) for level in range(J)
        ]
        self.right = [
            low_pass_matrix(bank.phi_columns, level, J).T.contiguous().to(device, dtype)
            for level in range(J)
        ]

    def low_pass(self, u: Tensor, level: int) -> Tensor:
        """Average (..., M/2^level, N/2^level) by φ, subsample and crop it to (..., H', W')."""
        return self.left[level] @ (u @ self.right[level])


class _Wavelets:
    """The L wavelets of one scale, multiplied with a spectrum and subsampled in one pass.

    Subsampling by k in space is the mean of the k² aliases in Fourier.  Blocks of aliases where the
    wavelets vanish to rounding are skipped; the factor 1/k² is part of the weights.
    """

    def __init__(self, psi: Tensor, factor: int) -> None:
        rows, columns = psi.shape[-2] // factor, psi.shape[-1] // factor
        self.shape = (rows, columns)
        self.blocks: list[tuple[slice, slice, Tensor]] = []
        negligible = torch.finfo(psi.dtype).eps * psi.abs().max() / 16
        for top in range(0, psi.shape[-2], rows):
            for left in range(0, psi.shape[-1], columns):
                block = (slice(top, top + rows), slice(left, left + columns))
                weights = psi[:, block[0], block[1]] / factor**2
                if weights.abs().max() > negligible or (top == 0 and left == 0):
                    # Repeated for real and imaginary part: a flat product vectorises, one that
                    # broadcasts over an innermost axis of length 2 does not.
                    self.blocks.append((*block, weights[..., None].repeat(1, 1, 1, 2)))

    def __call__(self, spectrum: Tensor) -> Tensor:
        """Multiply (..., M, N) with every wavelet and subsample by k, to (..., L, M/k, N/k)."""
        parts = torch.view_as_real(spectrum)[..., None, :, :, :]
        (rows, columns, weights), *others = self.blocks
        product = parts[..., rows, columns, :] * weights
        for rows, columns, weights in others:
            product.addcmul_(parts[..., rows, columns, :], weights)
        return torch.view_as_complex(product)
