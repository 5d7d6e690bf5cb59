# mypy: ignore-errors
# Numba compiles these functions: what they compute with has no Python types.
"""The scattering transform of one image after another as one compiled CPU kernel (needs Numba).

Every inner loop runs over vectors of eight orientations of the first wavelet, so that FFTs of any size, filter products
and low-pass are vector instructions without shuffles; but for the image's spectrum, of eight columns or rows. Inverse
FFTs are forward FFTs of conjugates, which have the same modulus. Each vector lane does the same operations whatever the
batch, so coefficients do not depend on batch or threads, bit by bit (docs/scattering.md).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.scattering.kernel_cache import kept
from scattergen.scattering.plan import COMPLEX, LANES, Plan
from scattergen.scattering.simd import (
    axis_tables,
    compiled,
    fft,
    inlined,
    load,
    load_complex,
    pointer_to,
    spread,
    square_root,
    store,
    store_complex,
    zero,
)
from scattergen.scattering.threads import in_threads

_PIXELS_PER_TASK = 2**12  # padded ones


@compiled
def workspace_parts(M, N, height):
    """Where the parts of the workspace for a grid (M, N) start."""
    line = np.int64(0)
    other = line + max(M, N) * COMPLEX  # a second line
    scratch = other + max(M, N) * COMPLEX  # two lines for `fft`
    x = scratch + 2 * max(M, N) * COMPLEX  # half spectrum of the image, LANES rows at a time
    h = x + (M // 2 + LANES) // LANES * (N + 1) * COMPLEX  # half spectra of |x * ψ_j1|
    a = h + (M // 2 + 1) * (N + 1) * COMPLEX  # spectra of which columns are yet to be transformed
    t = a + M * N * COMPLEX  # averages of columns
    s = t + (height + LANES - 1) // LANES * LANES * (N + 2 * LANES) * LANES  # of rows, too
    return line, other, scratch, x, h, a, t, s


def workspace_size(plan: Plan) -> int:
    """Numbers in a workspace."""
    M, N = len(plan.source_rows), len(plan.source_columns)
    height, width = (-(-size // LANES) * LANES for size in plan.outputs[1:])
    return workspace_parts.py_func(M, N, height)[-1] + height * width * LANES


@compiled
def separate(b, s, n, d, ds, e):
    """Twice the half spectra of real lines u (to d) and v (to e) from the spectrum of u + iv."""
    for k in range(n // 2 + 1):
        ar, ai = load_complex(b, s + k * COMPLEX)
        cr, ci = load_complex(b, s + (n - k) % n * COMPLEX)
        store_complex(b, d + k * ds, ar + cr, ai - ci)
        store_complex(b, e + k * ds, ai + ci, cr - ar)


@compiled
def _low_pass(b, s, ss, d, ds, n, axis, level, outputs):
    """Average a line of n real vectors to `outputs` (rounded up to a multiple of LANES)."""
    matrix, start = axis[5:]
    width = (outputs + LANES - 1) // LANES * LANES
    for first in range(0, outputs, 8):
        at = start[level] + first
        o0 = o1 = o2 = o3 = o4 = o5 = o6 = o7 = zero(b)
        for i in range(n):
            u = load(b, s + i * ss)
            o0 += u * spread(matrix, at)
            o1 += u * spread(matrix, at + 1)
            o2 += u * spread(matrix, at + 2)
            o3 += u * spread(matrix, at + 3)
            o4 += u * spread(matrix, at + 4)
            o5 += u * spread(matrix, at + 5)
            o6 += u * spread(matrix, at + 6)
            o7 += u * spread(matrix, at + 7)
            at += width
        y = d + first * ds
        store(b, y, o0)
        store(b, y + ds, o1)
        store(b, y + 2 * ds, o2)
        store(b, y + 3 * ds, o3)
        store(b, y + 4 * ds, o4)
        store(b, y + 5 * ds, o5)
        store(b, y + 6 * ds, o6)
        store(b, y + 7 * ds, o7)


@compiled
def _modulus(b, s, d, n):
    """|line at s| as the real or imaginary parts of the line at d."""
    for i in range(n):
        r, m = load_complex(b, s + i * COMPLEX)
        store(b, d + i * COMPLEX, square_root(r * r + m * m))


@inlined
def blocks_of(products, row):
    """First block of a row of a product, the first that is mirrored, their end, and the first weight."""
    rows = products[0]
    first, w = rows[4 * row + 2], rows[4 * row + 3]
    mirrored = first + rows[4 * row]
    return first, mirrored, mirrored + rows[4 * row + 1], w


@compiled
def first_product(b, x, d, n, products, row):
    """Conjugate of a row of (spectrum of the image) times (LANES wavelets), periodised."""
    _, blocks, weights = products
    first, mirrored, end, w = blocks_of(products, row)
    for k in range(n):
        r, i = zero(b), zero(b)
        at = w + k * LANES
        for block in range(first, mirrored):
            s = x + blocks[block] + k * COMPLEX
            weight = load(weights, at)
            r += weight * spread(b, s)
            i -= weight * spread(b, s + LANES)
            at += n * LANES
        for block in range(mirrored, end):
            s = x + blocks[block] - k * COMPLEX
            weight = load(weights, at)
            r += weight * spread(b, s)
            i += weight * spread(b, s + LANES)
            at += n * LANES
        store_complex(b, d + k * COMPLEX, r, i)


@compiled
def second_product(b, h, d, n, products, row):
    """Conjugate of a row of (LANES spectra) times (one wavelet), periodised."""
    _, blocks, weights = products
    first, mirrored, end, w = blocks_of(products, row)
    for k in range(0, n, 2):  # lengths are even; two at once for the latency of the sums
        r, i, u, v = zero(b), zero(b), zero(b), zero(b)
        at = w + k
        for block in range(first, mirrored):
            s = h + blocks[block] + k * COMPLEX
            weight, next_weight = spread(weights, at), spread(weights, at + 1)
            r += weight * load(b, s)
            i -= weight * load(b, s + LANES)
            u += next_weight * load(b, s + COMPLEX)
            v -= next_weight * load(b, s + COMPLEX + LANES)
            at += n
        for block in range(mirrored, end):
            s = h + blocks[block] - k * COMPLEX
            weight, next_weight = spread(weights, at), spread(weights, at + 1)
            r += weight * load(b, s)
            i += weight * load(b, s + LANES)
            u += next_weight * load(b, s - COMPLEX)
            v += next_weight * load(b, s - COMPLEX + LANES)
            at += n
        store_complex(b, d + k * COMPLEX, r, i)
        store_complex(b, d + k * COMPLEX + COMPLEX, u, v)


@compiled
def transform_row(b, row, scratch, n, axis, level):
    """FFT of a row in place; mirrored rows end in their first element, which is put behind it."""
    stride = np.int64(COMPLEX)
    fft(b, row, stride, row, stride, scratch, n, axis, level)
    r, i = load_complex(b, row)
    store_complex(b, row + n * COMPLEX, r, i)


@compiled
def image_step(N):
    """Floats between the rows of an image's half spectrum at a, eight columns to a vector."""
    return (N + 2 * LANES - 1) // (2 * LANES) * 2 * COMPLEX


@compiled
def image_spectrum(b, at, images, image, tables, plan):
    """Half spectrum of a padded image at x, rows in lanes, and averages of its columns at t."""
    line, _, scratch, x, _, a, t, _ = at
    down, along, _ = tables
    rows, columns = plan.source_rows, plan.source_columns
    M, N = len(rows), len(columns)
    height = plan.outputs[1]
    stride, finest, nothing = np.int64(COMPLEX), np.int64(0), images.dtype.type(0)
    step = image_step(N)
    for c in range(0, N, 2 * LANES):  # two groups of columns share one transform
        for i in range(M):
            for lane in range(2 * LANES):
                value = nothing
                if c + lane < N:
                    value = images[image, rows[i], columns[c + lane]]
                b[line + i * COMPLEX + lane] = value
        for part in range(0, COMPLEX, LANES):
            _low_pass(b, line + part, stride, t + c + part, step, M, down, finest, height)
        fft(b, line, stride, line, stride, scratch, M, down, finest)
        first = a + c * 2
        separate(b, line, M, first, step, first + COMPLEX)
    for k in range(0, M // 2 + 1, LANES):
        to = x + k // LANES * (N + 1) * COMPLEX
        for c in range(N):
            for lane in range(min(LANES, M // 2 + 1 - k)):
                s = a + (k + lane) * step + c // LANES * COMPLEX + c % LANES
                b[to + c * COMPLEX + lane] = b[s]
                b[to + c * COMPLEX + LANES + lane] = b[s + LANES]
        transform_row(b, to, scratch, N, along, finest)


@compiled
def _zeroth_order(b, at, out, image, along, plan):
    """Coefficients of order 0 from averages of the padded image's columns."""
    N, t, matrix = len(plan.source_columns), at[6], along[5]
    _, height, width = plan.outputs
    padded_width, step = (width + LANES - 1) // LANES * LANES, image_step(N)
    for h in range(height):
        for w in range(width):
            value = out.dtype.type(0)
            for c in range(N):
                value += b[t + h * step + c] * matrix[c * padded_width + w]
            out[image, 0, h, w] = value


@compiled
def _write_averages(b, at, out, image, path, stride, n_lanes, along, level, plan):
    """Second half of the low-pass: rows of vectors at t to coefficients; lane l is path `path + l * stride`."""
    t, s = at[6], at[7]
    n = len(plan.source_columns) >> level
    _, height, width = plan.outputs
    vector = np.int64(LANES)
    row = (width + LANES - 1) // LANES * LANES * LANES
    for h in range(height):
        _low_pass(b, t + h * n * LANES, vector, s + h * row, vector, n, along, level, width)
    for lane in range(n_lanes):
        for h in range(height):
            for w in range(width):
                out[image, path + lane * stride, h, w] = b[s + h * row + w * LANES + lane]


@compiled
def first_order(b, at, row, j1, keep, again, tables, plan):
    """Average columns of |x * ψ_j1| to t, or keep conj(x * ψ_j1) at a; again asks for its spectrum at h."""
    line, other, scratch, x, h, a, t, _ = at
    down, along, products = tables
    m, n = len(plan.source_rows) >> j1, len(plan.source_columns) >> j1
    stride = np.int64(COMPLEX)
    for i in range(m):
        first_product(b, x, line, n, products, row + i)
        fft(b, line, stride, a + i * n * COMPLEX, stride, scratch, n, along, j1)
    for c in range(0, n, 2):  # the moduli of two columns share one transform
        for part in range(2):
            column, u = a + (c + part) * COMPLEX, line + part * LANES
            fft(b, column, n * COMPLEX, other, stride, scratch, m, down, j1)
            _modulus(b, other, u, m)
            if keep:
                for i in range(m):
                    r, q = load_complex(b, other + i * COMPLEX)
                    store_complex(b, column + i * n * COMPLEX, r, q)
            else:
                to = t + (c + part) * LANES
                _low_pass(b, u, stride, to, n * LANES, m, down, j1, plan.outputs[1])
        if again:
            fft(b, line, stride, line, stride, scratch, m, down, j1)
            to = h + c * COMPLEX
            separate(b, line, m, to, (n + 1) * COMPLEX, to + COMPLEX)
    if again:
        for i in range(m // 2 + 1):
            transform_row(b, h + i * (n + 1) * COMPLEX, scratch, n, along, j1)


@compiled
def _second_order(b, at, row, j2, tables, plan):
    """Average columns of ||x * ψ_j1| * ψ_j2| of LANES first orientations and one second one to t."""
    line, _, scratch, _, h, a, t, _ = at
    down, along, products = tables
    m, n = len(plan.source_rows) >> j2, len(plan.source_columns) >> j2
    stride = np.int64(COMPLEX)
    for i in range(m):
        second_product(b, h, line, n, products, row + i)
        fft(b, line, stride, a + i * n * COMPLEX, stride, scratch, n, along, j2)
    for c in range(n):
        fft(b, a + c * COMPLEX, n * COMPLEX, line, stride, scratch, m, down, j2)
        _modulus(b, line, line, m)
        _low_pass(b, line, stride, t + c * LANES, n * LANES, m, down, j2, plan.outputs[1])


@inlined
def pointers(plan):
    """FFTs and low-pass along either axis, and filter products, as pointers."""
    products = plan.products
    return (
        axis_tables(plan.rows_axis, plan.constants),
        axis_tables(plan.columns_axis, plan.constants),
        (pointer_to(products.rows), pointer_to(products.blocks), pointer_to(products.weights)),
    )


@kept
def _scatter(images, out, plan, workspace):
    """Coefficients of images (B, H, W) to out (B, K, H', W')."""
    J, L, table = plan.J, plan.L, plan.products
    b, tables = pointer_to(workspace), pointers(plan)
    M = len(plan.source_rows)
    at = workspace_parts(M, len(plan.source_columns), plan.outputs[1])
    for image in range(len(images)):
        image_spectrum(b, at, images, image, tables, plan)
        _zeroth_order(b, at, out, image, tables[1], plan)
        second_path = 1 + J * L
        for j1 in range(J if plan.order > 0 else 0):
            again = plan.order == 2 and j1 < J - 1
            paths_per_theta = (J - 1 - j1) * L
            for theta1 in range(0, L, LANES):
                n_lanes = min(LANES, L - theta1)
                row = table.first[j1] + theta1 // LANES * (M >> j1)
                first_order(b, at, row, j1, False, again, tables, plan)
                path, step = 1 + j1 * L + theta1, np.int64(1)
                _write_averages(b, at, out, image, path, step, n_lanes, tables[1], j1, plan)
                if not again:
                    continue
                path, step = second_path + theta1 * paths_per_theta, np.int64(paths_per_theta)
                for j2 in range(j1 + 1, J):
                    for theta2 in range(L):
                        row = table.second[j1, j2] + theta2 * (M >> j2)
                        _second_order(b, at, row, j2, tables, plan)
                        _write_averages(b, at, out, image, path, step, n_lanes, tables[1], j2, plan)
                        path += 1
            second_path += L * paths_per_theta


def scatter_batch(images: Tensor, plan: Plan) -> Tensor:
    """Coefficients (B, K, H', W') of images (B, H, W) in the plan's precision."""
    out = images.new_empty(len(images), *plan.outputs)

    def work(part: slice, workspace: NDArray[np.floating]) -> None:
        _scatter(contiguous(images, part), out.numpy()[part], plan, workspace)

    share(work, images, plan, workspace_size(plan))
    return out


def contiguous(x: Tensor, part: slice) -> NDArray[np.floating]:
    """A part of a tensor as the memory layout that compiled code expects."""
    return np.ascontiguousarray(x.numpy()[part])


def share(work: Callable[[slice, NDArray[np.floating]], None], images: Tensor, plan: Plan, n_numbers: int) -> None:
    """Call work(part of the batch, workspace of n numbers) for all parts, by as many threads as torch uses."""
    n_threads = torch.get_num_threads()
    # Tasks of about a millisecond, unless a thread would have none, and enough of them to even out unequal threads.
    pixels = len(plan.source_rows) * len(plan.source_columns)
    least = min(-(-_PIXELS_PER_TASK // pixels), -(-len(images) // n_threads))
    size = max(1, least, -(-len(images) // (8 * n_threads)))
    tasks = iter(range(0, len(images), size))  # shared by the threads

    def worker() -> None:
        workspace = None  # of many threads, some come too late for a task
        for begin in tasks:
            workspace = images.new_empty(n_numbers).numpy() if workspace is None else workspace
            work(slice(begin, begin + size), workspace)

    in_threads(worker, n_threads if len(images) > size else 1)
