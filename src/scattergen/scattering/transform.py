"""The two-dimensional scattering transform as a differentiable PyTorch module."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import product
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad

from scattergen.calls.keywords import whole_number
from scattergen.calls.state import usual_state
from scattergen.errors import InputError
from scattergen.scattering.filters import FilterBank, cropped, filter_bank, low_pass_matrix, padding_sources
from scattergen.scattering.plan import Plan, build_plan

# Intermediate spectra of one chunk of images should stay in a core's second-level cache: on the development machine
# 28x28 images ran fastest in chunks of 16-64, 128x128x3 in chunks of 1-4.
_CHUNK_FLOATS = 2**20
_MOST_ORIENTATIONS = 128  # more are closer to each other than a wavelet is wide, and L² paths take hours


class Kernels(NamedTuple):
    """The compiled CPU kernel."""

    transform: Callable[[Tensor, Plan], Tensor]  # coefficients (B, K, H', W') of images (B, H, W)
    gradient: Callable[[Tensor, Tensor, Plan], Tensor]  # of images, from them and that of their coefficients
    distance: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]  # of coefficients, and their gradients


@lru_cache
def compiled_kernels() -> Kernels | None:
    """The compiled CPU kernel, imported on the first call; None, with a warning, where Numba does not work."""
    try:
        from scattergen.scattering import kernel_distance, kernel_gradient, kernels
    except (ImportError, RuntimeError) as error:  # Numba's errors, as where NumPy is too new
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        said = f"Numba, its compiler, says: {str(error).rstrip('.')}"
        remedy = "pip install 'scattergen[fast]' adds it" if missing else said
        gain = "Scattering runs up to five times faster by its compiled kernel, and decoders train faster"
        warnings.warn(f"{gain}: {remedy}.", stacklevel=2)
        return None
    return Kernels(kernels.scatter_batch, kernel_gradient.gradient_batch, kernel_distance.distance_batch)


class Path(NamedTuple):
    """One scattering path: its order, and scales and orientation indices of its wavelets, None if unused; j2 > j1."""

    order: int
    j1: int | None = None
    theta1: int | None = None
    j2: int | None = None
    theta2: int | None = None


def is_plain(x: Tensor) -> bool:
    """Whether the values of x can be read now, and nothing but them is asked."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not (x.is_cuda and torch.cuda.is_current_stream_capturing())
        and forward_ad.unpack_dual(x).tangent is None
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # inside vmap, grad or jvp
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # gradients of is_grads_batched
    )


def _as_tensor(x: NDArray[Any]) -> Tensor:
    """The images of an array, in its own memory where PyTorch can use that."""
    if x.dtype.kind != "f" or x.dtype.itemsize > 8 or np.ma.is_masked(x):
        remedy = "give floating-point numbers of up to 64 bits, none of them masked, for 8-bit images x / 255"
        raise InputError(f"Images are an array of {x.dtype}: {remedy}.")
    return torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))


class _ByKernel(torch.autograd.Function):
    """The compiled transform; nothing but the images is kept for its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, transform: "Scattering2D", kernels: Kernels) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.transform, ctx.kernels = transform, kernels
        return kernels.transform(x.detach(), transform._plan_for(x.dtype))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        again = torch.is_grad_enabled()  # a derivative of this derivative is asked for
        if again or not is_plain(gradient):
            with torch.enable_grad():
                s = ctx.transform._by_torch(x)
            return torch.autograd.grad(s, x, gradient, create_graph=again)[0], None, None
        return ctx.kernels.gradient(x.detach(), gradient.detach(), ctx.transform._plan_for(x.dtype)), None, None


def _fast_modulus(x: Tensor) -> Tensor:
    # torch.abs of complex numbers guards against overflow of the squares, at 2-3 times the cost.
    squares = torch.view_as_real(x).square()
    return (squares[..., 0] + squares[..., 1]).sqrt_()


def _two_products(left: Tensor, u: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(u.device.type, enabled=False):
        return (left @ u) @ right  # measured 2 to 4 times faster than the right product first


class _Modulus(torch.autograd.Function):
    """|x| of complex x with the subgradient 0 at x = 0, where the modulus has no derivative."""

    generate_vmap_rule = True
    forward = staticmethod(_fast_modulus)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x, modulus = ctx.saved_tensors
        # x is 0 wherever the modulus is, so the value that replaces 0/0 does not matter.
        return gradient * x / torch.where(modulus == 0, 1, modulus)


class _TwoProducts(torch.autograd.Function):
    """left @ u @ right in u's precision, and so its derivatives, whatever autocast is around."""

    generate_vmap_rule = True
    forward = staticmethod(_two_products)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs[0], inputs[2])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[no-untyped-def]
        left, right = ctx.saved_tensors
        return None, _TwoProducts.apply(left.mT, gradient, right.mT), None


def modulus(x: Tensor) -> Tensor:
    """|x| of complex x, with the subgradient 0 at x = 0."""
    return _Modulus.apply(x) if torch.is_grad_enabled() and x.requires_grad else _fast_modulus(x)


class Constants:
    """Filters, low-pass matrices and padding indices of one transform on one device and dtype."""

    def __init__(
        self, bank: FilterBank, shape: tuple[int, int], padding: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        J, _, M, N = bank.psi.shape
        self.pad_rows, self.pad_columns = (source.to(device) for source in padding_sources(shape, (M, N), padding))
        # Wavelets of scale j at resolution 2^-level, by level and j.
        self.filters = {
            (level, j): Wavelets(cropped(bank.psi[j], level).to(device, dtype), 2 ** (j - level))
            for j in range(J)
            for level in range(max(j, 1))
        }
        margin = int(padding != "periodic")
        rows, columns = (
            [low_pass_matrix(phi, level, J, margin).to(device, dtype) for level in range(J)]
            for phi in (bank.phi_rows, bank.phi_columns)
        )
        self._left, self._right = rows, [matrix.T.contiguous() for matrix in columns]

    def low_pass(self, u: Tensor, level: int) -> Tensor:
        """Average (..., M/2^level, N/2^level) by φ, subsample and crop it to (..., H', W')."""
        multiply = _TwoProducts.apply if torch.is_grad_enabled() and u.requires_grad else _two_products
        return multiply(self._left[level], u, self._right[level])


class Wavelets:
    """The L wavelets of one scale, multiplied with a spectrum and subsampled by k in one pass: means of k² aliases."""

    def __init__(self, psi: Tensor, factor: int) -> None:
        rows, columns = psi.shape[-2] // factor, psi.shape[-1] // factor
        self.blocks: list[tuple[slice, slice, Tensor]] = []  # without those where the wavelets vanish to rounding
        negligible = torch.finfo(psi.dtype).eps * psi.abs().max() / 16
        for top, left in product(range(0, psi.shape[-2], rows), range(0, psi.shape[-1], columns)):
            block = (slice(top, top + rows), slice(left, left + columns))
            weights = psi[:, *block] / factor**2
            if weights.abs().max() > negligible or (top == 0 and left == 0):
                # Repeated for real and imaginary part: a flat product vectorises, one that broadcasts over an innermost
                # axis of length 2 does not.
                self.blocks.append((*block, weights[..., None].repeat(1, 1, 1, 2)))

    def __call__(self, spectrum: Tensor) -> Tensor:
        """Multiply (..., M, N) with every wavelet and subsample by k, to (..., L, M/k, N/k)."""
        parts = torch.view_as_real(spectrum)[..., None, :, :, :]
        (rows, columns, weights), *others = self.blocks
        result = parts[..., rows, columns, :] * weights
        for rows, columns, weights in others:
            result.addcmul_(parts[..., rows, columns, :], weights)
        return torch.view_as_complex(result)


# Transforms of the same images share what is computed for them. Only a few sets are kept, so that those of sizes that
# are no longer used leave the memory of their device.
@lru_cache(maxsize=8)
@usual_state()
def _shared_constants(
    bank: FilterBank, shape: tuple[int, int], padding: str, dtype: torch.dtype, device: torch.device
) -> Constants:
    return Constants(bank, shape, padding, dtype, device)


class Scattering2D(nn.Module):
    r"""Wavelet scattering transform of order at most two, differentiable, with subgradient 0 of the modulus at 0.

    $S x = \{x \star \phi,\ |x \star \psi_{\lambda_1}| \star \phi,\
    ||x \star \psi_{\lambda_1}| \star \psi_{\lambda_2}| \star \phi\}$, subsampled by 2^J (Bruna, Mallat, "Invariant
    scattering convolution networks", 2013). Coefficients, their order, the padding and the filters' conventions are
    those of Kymatio's `Scattering2D` (Andreux et al., "Kymatio: scattering transforms in Python", 2020).

    Args:
        J: Scale: the low-pass averages over about 2^J pixels; 2^J may not exceed a side.
        shape: Image size (H, W) in pixels.
        L: Number of orientations.
        max_order: 0, 1 or 2.
        padding: What lies outside of an image: its "reflect"ion, the image again ("periodic"; its sides are then
            multiples of 2^J, and nothing is padded), or "zero".

    Attributes:
        paths: The K paths in the order of the output's channels.
        output_shape: (K, H', W') of one single-channel image.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> scattering = Scattering2D(J=2, shape=(28, 28))
        >>> scattering(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 1, 81, 7, 7])
    """

    def __init__(
        self, J: int, shape: tuple[int, int], L: int = 8, max_order: int = 2, padding: str = "reflect"
    ) -> None:
        super().__init__()
        try:
            height, width = shape
        except (TypeError, ValueError):
            raise InputError(f"shape={shape!r}: give the height and width of the images in pixels.") from None
        rows, columns = whole_number("height", height, least=2), whole_number("width", width, least=2)
        J, L = whole_number("J", J, least=1), whole_number("L", L, least=1, most=_MOST_ORIENTATIONS)
        max_order = whole_number("max_order", max_order, most=2)
        largest_J = min(rows, columns).bit_length() - 1
        if largest_J < J:
            problem = f"J={J} does not fit images of {rows}x{columns} pixels"
            raise InputError(f"{problem}: choose J between 1 and {largest_J}, so that 2^J is at most the shorter side.")
        if padding not in ("reflect", "periodic", "zero"):
            raise InputError(f"padding={padding!r}: choose 'reflect', 'periodic' or 'zero'.")
        if padding == "periodic" and (rows | columns) % 2**J:
            given = f"padding='periodic' takes sides that are multiples of 2^J = {2**J}, not {rows}x{columns} pixels"
            whole = f"{rows >> J << J}x{columns >> J << J}"
            raise InputError(f"{given}: crop the images to {whole}, or choose another padding or a smaller J.")
        self.J, self.L, self.max_order, self.shape, self.padding = J, L, max_order, (rows, columns), padding
        # Multiples of 2^J that leave a margin of 2^J, where there is something to pad.
        margins = 0 if padding == "periodic" else 2
        self.padded_shape = ((rows >> J) + margins) << J, ((columns >> J) + margins) << J
        paths, waves = [Path(0)], list(product(range(J), range(L)))
        if max_order >= 1:
            paths += [Path(1, *wave) for wave in waves]
        if max_order == 2:
            paths += [Path(2, *first, *second) for first in waves for second in waves if second[0] > first[0]]
        self.paths = tuple(paths)
        self.output_shape = (len(paths), rows >> J, columns >> J)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        padding = "" if self.padding == "reflect" else f", padding={self.padding!r}"
        return f"J={self.J}, shape={self.shape}, L={self.L}, max_order={self.max_order}{padding}"

    def forward(self, x: Tensor | NDArray[Any]) -> Tensor | NDArray[Any]:
        """Scattering coefficients, (..., K, H', W'), of images (..., H, W), in float32, or float64 if they are.

        An array for a NumPy array, else a tensor. An `InputError` if x is neither, does not hold real floating-point
        numbers (..., H, W), or a pixel is NaN or infinite.
        """
        if isinstance(x, np.ndarray):
            return self(_as_tensor(x)).numpy()
        if not isinstance(x, Tensor):
            remedy = "convert them, for example by torch.as_tensor(x, dtype=torch.float32)"
            raise InputError(f"Images are {type(x).__name__}, neither a torch.Tensor nor a NumPy array: {remedy}.")
        if x.is_complex():
            remedy = "give x.abs(), or x.real and x.imag one after the other"
            raise InputError(f"Images are {x.dtype}, but the transform is of real images: {remedy}.")
        if not x.is_floating_point():
            levels = "x.float(), 0 and 1" if x.dtype == torch.bool else "for 8-bit images x.float() / 255"
            raise InputError(f"Images are {x.dtype}: give floating-point numbers, {levels}.")
        if tuple(x.shape[-2:]) != self.shape:
            built = "This transform was built for images of {}x{} pixels".format(*self.shape)
            remedy = "build another Scattering2D or resize the images"
            raise InputError(f"{built} but got an array of shape {tuple(x.shape)}: {remedy}.")
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        batch = x.shape[:-2]
        if x.numel() == 0:  # which the FFT refuses
            return x.new_empty(*batch, *self.output_shape)
        flat = x.reshape(-1, *self.shape)
        plain = is_plain(flat)
        if plain and not all(map(isfinite, torch.aminmax(flat.detach()))):  # NaN if there is one
            remedy = "check where they come from, or replace them, for example by x.nan_to_num()"
            raise InputError(f"Images hold NaN or infinite pixels: {remedy}.")
        if self.padding == "zero":
            flat = F.pad(flat, (0, 1, 0, 1))  # the row and column that stand for all outside
        kernels = compiled_kernels() if plain and flat.device.type == "cpu" else None
        s = _ByKernel.apply(flat, self, kernels) if kernels else self._by_torch(flat)
        return s.reshape(*batch, *self.output_shape)

    def _by_torch(self, x: Tensor) -> Tensor:
        """Coefficients by PyTorch operations: x (B, H, W) -> (B, K, H', W')."""
        find = partial(self._constants_for, x.dtype, x.device)
        if is_plain(x) or torch.compiler.is_dynamo_compiling():
            constants = find()
        else:  # another thread computes them as numbers, since what traces or transforms functions is in this one
            with ThreadPoolExecutor(1) as outside:
                constants = outside.submit(find).result()
        if torch.compiler.is_exporting():  # a program for any batch
            return self._scatter(x, constants)
        M, N = self.padded_shape
        floats_per_image = 2 * M * N * self.L * max(1, self.J - 1)
        budget = _CHUNK_FLOATS if x.device.type == "cpu" else 256 * _CHUNK_FLOATS
        return torch.cat([self._scatter(part, constants) for part in x.split(max(1, budget // floats_per_image))])

    def _scatter(self, x: Tensor, c: Constants) -> Tensor:
        """Coefficients of a chunk: x (B, H, W) -> (B, K, H', W')."""
        J = self.J
        x = x[:, c.pad_rows[:, None], c.pad_columns]  # (B, M, N)
        orders: list[list[Tensor]] = [[c.low_pass(x, 0)[:, None]], [], []]
        if self.max_order >= 1:
            x_hat = torch.fft.fft2(x)
            for j1 in range(J):
                u1 = modulus(torch.fft.ifft2(c.filters[0, j1](x_hat)))
                orders[1].append(c.low_pass(u1, j1))  # u1: (B, L, M/2^j1, N/2^j1)
                if self.max_order == 2 and j1 < J - 1:
                    u1_hat = torch.fft.fft2(u1)
                    second = [
                        c.low_pass(modulus(torch.fft.ifft2(c.filters[j1, j2](u1_hat))), j2) for j2 in range(j1 + 1, J)
                    ]  # each (B, L, L, H', W')
                    orders[2].append(torch.stack(second, 2).flatten(1, 3))
        return torch.cat([block for order in orders for block in order], 1)

    def _plan_for(self, dtype: torch.dtype) -> Plan:
        bank = filter_bank(self.padded_shape, self.J, self.L)
        return build_plan(bank, self.shape, self.padding, self.output_shape, self.max_order, dtype)

    def _constants_for(self, dtype: torch.dtype, device: torch.device) -> Constants:
        bank = filter_bank(self.padded_shape, self.J, self.L)
        return _shared_constants(bank, self.shape, self.padding, dtype, device)
