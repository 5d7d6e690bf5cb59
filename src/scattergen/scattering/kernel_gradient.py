# mypy: ignore-errors
# Numba compiles these functions: what they compute with has no Python types.
"""The gradient of the compiled scattering transform (needs Numba).

Nothing is kept from the transform but the image: its spectra are computed again, step by step, and every step is
followed backwards while its intermediates are in the cache. With F the unnormalised DFT, which is symmetric, and z =
F p̄ the conjugate of p's inverse FFT, p's gradient is F applied to the conjugate of z's; that of a real u is the real
part of F applied to the conjugate of its half spectrum's, so that two columns share one transform again. Gradients of
spectra are kept conjugated (docs/scattering.md).
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scattergen.scattering.kernel_cache import kept
from scattergen.scattering.kernels import (
    blocks_of,
    contiguous,
    first_order,
    image_spectrum,
    image_step,
    pointers,
    second_product,
    share,
    workspace_parts,
    workspace_size,
)
from scattergen.scattering.plan import COMPLEX, LANES, Plan
from scattergen.scattering.simd import (
    compiled,
    fft,
    load,
    load_complex,
    pointer_to,
    quotient,
    spread,
    square_root,
    store,
    store_complex,
    zero,
)


@compiled
def _gradient_parts(M, N, a2):
    """Where the gradients' parts of the workspace start; a2 is as a, for order 2."""
    gh = a2 + M // 2 * (N // 2) * COMPLEX  # of the half spectra h
    gx = gh + (M // 2 + 1) * (N + 1) * COMPLEX  # of the image's half spectrum, one sum per lane
    end = gx + (M // 2 + 1) * (N + 1) * COMPLEX
    return gh, gx, end


@compiled
def _clear(b, start, n):
    """Write n zero vectors."""
    for i in range(n):
        store(b, start + i * LANES, zero(b))


@compiled
def _join(b, s, ss, e, n, d):
    """Adjoint of `separate`: a line at d from the gradients of half spectra at s and e."""
    half = n // 2  # lengths are even
    for k in range(half + 1):
        ar, ai = load_complex(b, s + k * ss)
        cr, ci = load_complex(b, e + k * ss)
        if k == 0 or k == half:  # bins that are their own mirror images
            store_complex(b, d + k * COMPLEX, ar + ar, cr + cr)
        else:
            store_complex(b, d + k * COMPLEX, ar - ci, ai + cr)
            store_complex(b, d + (n - k) * COMPLEX, ar + ci, cr - ai)


@compiled
def _spread_averages(b, s, ss, d, ds, n, axis, level, outputs):
    """Adjoint of `low_pass`: add the gradient of a line of n vectors at d to what is there."""
    matrix, start = axis[5:]
    width = (outputs + LANES - 1) // LANES * LANES
    for first in range(0, outputs, 8):
        at, y = start[level] + first, s + first * ss
        o0, o1, o2, o3 = load(b, y), load(b, y + ss), load(b, y + 2 * ss), load(b, y + 3 * ss)
        y += 4 * ss
        o4, o5, o6, o7 = load(b, y), load(b, y + ss), load(b, y + 2 * ss), load(b, y + 3 * ss)
        for i in range(n):
            u = load(b, d + i * ds)
            u += o0 * spread(matrix, at)
            u += o1 * spread(matrix, at + 1)
            u += o2 * spread(matrix, at + 2)
            u += o3 * spread(matrix, at + 3)
            v = o4 * spread(matrix, at + 4)
            v += o5 * spread(matrix, at + 5)
            v += o6 * spread(matrix, at + 6)
            v += o7 * spread(matrix, at + 7)
            store(b, d + i * ds, u + v)
            at += width


@compiled
def _through_modulus(b, z, zs, u, us, d, n):
    """Conjugate of z's gradient, for n numbers z and the gradients u of their moduli, at d."""
    for i in range(n):
        r, m = load_complex(b, z + i * zs)
        scale = quotient(load(b, u + i * us), square_root(r * r + m * m))
        store_complex(b, d + i * COMPLEX, scale * r, zero(b) - scale * m)


@compiled
def _spread_product(b, s, d, n, N, products, row, grouped):
    """Adjoint of `first_product`, if grouped, or `second_product`: add a row's conjugate gradient to that at d."""
    _, blocks, weights = products
    first, mirrored, end, at = blocks_of(products, row)
    size = LANES if grouped else 1
    for block in range(first, end):
        source = blocks[block]
        if grouped:  # the spectrum holds eight rows in lanes; its gradient has a vector for each number
            vector, lane = source // COMPLEX, source % COMPLEX
            source = ((vector // (N + 1) * LANES + lane) * (N + 1) + vector % (N + 1)) * COMPLEX
        to = d + source
        step = COMPLEX if block < mirrored else -COMPLEX
        for k in range(n):
            weight = load(weights, at) if grouped else spread(weights, at)
            r, i = load_complex(b, s + k * COMPLEX)
            gr, gi = load_complex(b, to + k * step)
            i = weight * i
            store_complex(b, to + k * step, gr + weight * r, gi - i if block < mirrored else gi + i)
            at += size


@compiled
def _read_averages(b, at, gradient, image, path, stride, n_lanes, tables, level, plan):
    """Gradient of the coefficients `path + l * stride` (lane l), spread along rows, at t."""
    t, s = at[6], at[7]
    n = len(plan.source_columns) >> level
    _, height, width = plan.outputs
    vector = np.int64(LANES)
    row = (width + LANES - 1) // LANES * LANES * LANES
    _clear(b, s, height * row // LANES)
    padded_height = (height + LANES - 1) // LANES * LANES
    _clear(b, t, padded_height * n)
    for lane in range(n_lanes):
        for h in range(height):
            for w in range(width):
                value = gradient[image, path + lane * stride, h, w]
                b[s + h * row + w * LANES + lane] = value
    for h in range(height):
        to = t + h * n * LANES
        _spread_averages(b, s + h * row, vector, to, vector, n, tables[1], level, width)


@compiled
def _through_second(b, at, a2, gh, row, j2, tables, plan):
    """Add to gh what one (j2, θ2) contributes; its coefficients' gradients are at t."""
    line, other, scratch, _, h, _, t, _ = at
    down, along, products = tables
    M, N = len(plan.source_rows), len(plan.source_columns)
    m, n = M >> j2, N >> j2
    stride, vector, across = np.int64(COMPLEX), np.int64(LANES), np.int64(n * COMPLEX)
    for i in range(m):
        second_product(b, h, line, n, products, row + i)
        fft(b, line, stride, a2 + i * across, stride, scratch, n, along, j2)
    for c in range(n):
        column, averages = a2 + c * COMPLEX, t + c * LANES
        fft(b, column, across, line, stride, scratch, m, down, j2)
        _clear(b, other, m)
        _spread_averages(b, averages, n * LANES, other, vector, m, down, j2, plan.outputs[1])
        _through_modulus(b, line, stride, other, vector, line, m)
        fft(b, line, stride, column, across, scratch, m, down, j2)
    for i in range(m):
        fft(b, a2 + i * across, stride, line, stride, scratch, n, along, j2)
        _spread_product(b, line, gh, n, N, products, row + i, False)


@compiled
def _fold_last_column(b, row, n):
    """Add what belongs to the copy of a row's first number, behind the row, to that number."""
    ar, ai = load_complex(b, row)
    cr, ci = load_complex(b, row + n * COMPLEX)
    store_complex(b, row, ar + cr, ai + ci)


@compiled
def _through_first(b, at, gh, gx, row, j1, tables, plan):
    """Add to gx what one (j1, LANES θ1) contributes; its coefficients' gradients are at t."""
    line, other, scratch, _, _, a, t, _ = at
    down, along, products = tables
    M, N = len(plan.source_rows), len(plan.source_columns)
    m, n = M >> j1, N >> j1
    again = plan.order == 2 and j1 < plan.J - 1
    stride, across = np.int64(COMPLEX), np.int64(n * COMPLEX)
    if again:
        for i in range(m // 2 + 1):
            line_of_gh = gh + i * (n + 1) * COMPLEX
            _fold_last_column(b, line_of_gh, n)
            fft(b, line_of_gh, stride, line_of_gh, stride, scratch, n, along, j1)
    for c in range(0, n, 2):
        if again:
            s = gh + c * COMPLEX
            _join(b, s, (n + 1) * COMPLEX, s + COMPLEX, m, line)
            fft(b, line, stride, line, stride, scratch, m, down, j1)
        else:
            _clear(b, line, 2 * m)
        for part in range(2):
            column, averages, u = a + (c + part) * COMPLEX, t + (c + part) * LANES, line + part * LANES
            _spread_averages(b, averages, n * LANES, u, stride, m, down, j1, plan.outputs[1])
            _through_modulus(b, column, across, u, stride, other, m)
            fft(b, other, stride, column, across, scratch, m, down, j1)
    for i in range(m):
        fft(b, a + i * across, stride, line, stride, scratch, n, along, j1)
        _spread_product(b, line, gx, n, N, products, row + i, True)


@compiled
def _through_image_spectrum(b, at, gx, gradient, out, image, tables, plan):
    """The image's gradient from its spectrum's, gx, and that of its order-0 coefficients."""
    line, _, scratch, x, _, a, t, _ = at
    down, along, _ = tables
    rows, columns = plan.source_rows, plan.source_columns
    M, N = len(rows), len(columns)
    _, height, width = plan.outputs
    stride, finest, nothing = np.int64(COMPLEX), np.int64(0), out.dtype.type(0)
    step = image_step(N)
    _clear(b, a, (M // 2 + 1) * step // LANES)
    for k in range(0, M // 2 + 1, LANES):  # rows to lanes, as in the spectrum of the image
        n_rows = min(LANES, M // 2 + 1 - k)
        _clear(b, x, 2 * (N + 1))
        for lane in range(n_rows):
            for c in range(N + 1):
                s = gx + ((k + lane) * (N + 1) + c) * COMPLEX
                r, i = nothing, nothing
                for theta in range(LANES):
                    r += b[s + theta]
                    i += b[s + LANES + theta]
                b[x + c * COMPLEX + lane] = r
                b[x + c * COMPLEX + LANES + lane] = i
        _fold_last_column(b, x, N)
        fft(b, x, stride, x, stride, scratch, N, along, finest)
        for c in range(N):
            for lane in range(n_rows):
                to = a + (k + lane) * step + c // LANES * COMPLEX + c % LANES
                b[to] = b[x + c * COMPLEX + lane]
                b[to + LANES] = b[x + c * COMPLEX + LANES + lane]
    matrix, padded_width = along[5], (width + LANES - 1) // LANES * LANES
    padded_height = (height + LANES - 1) // LANES * LANES
    _clear(b, t, padded_height * step // LANES)
    for h in range(height):
        for c in range(N):
            value = nothing
            for w in range(width):
                value += gradient[image, 0, h, w] * matrix[c * padded_width + w]
            b[t + h * step + c] = value
    out[image] = 0
    for c in range(0, N, 2 * LANES):  # two groups of columns share one transform
        _join(b, a + c * 2, step, a + c * 2 + COMPLEX, M, line)
        fft(b, line, stride, line, stride, scratch, M, down, finest)
        for part in range(0, COMPLEX, LANES):
            _spread_averages(b, t + c + part, step, line + part, stride, M, down, finest, height)
        for i in range(M):
            for lane in range(min(2 * LANES, N - c)):
                out[image, rows[i], columns[c + lane]] += b[line + i * COMPLEX + lane]


@kept
def _differentiate(images, gradient, out, plan, a2, workspace):
    """Gradients of images (B, H, W) to out from those of coefficients (B, K, H', W')."""
    J, L = plan.J, plan.L
    b, table = pointer_to(workspace), plan.products
    tables = pointers(plan)
    M, N = len(plan.source_rows), len(plan.source_columns)
    at = workspace_parts(M, N, plan.outputs[1])
    gh, gx, _ = _gradient_parts(M, N, a2)
    for image in range(len(images)):
        image_spectrum(b, at, images, image, tables, plan)
        _clear(b, gx, 2 * (M // 2 + 1) * (N + 1))
        second_path = 1 + J * L
        for j1 in range(J if plan.order > 0 else 0):
            m, n = M >> j1, N >> j1
            again = plan.order == 2 and j1 < J - 1
            paths_per_theta = (J - 1 - j1) * L
            for theta1 in range(0, L, LANES):
                n_lanes = min(LANES, L - theta1)
                first = table.first[j1] + theta1 // LANES * m
                first_order(b, at, first, j1, True, again, tables, plan)
                if again:
                    _clear(b, gh, 2 * (m // 2 + 1) * (n + 1))
                    path, step = second_path + theta1 * paths_per_theta, np.int64(paths_per_theta)
                    for j2 in range(j1 + 1, J):
                        for theta2 in range(L):
                            row = table.second[j1, j2] + theta2 * (M >> j2)
                            _read_averages(b, at, gradient, image, path, step, n_lanes, tables, j2, plan)
                            _through_second(b, at, a2, gh, row, j2, tables, plan)
                            path += 1
                path, step = 1 + j1 * L + theta1, np.int64(1)
                _read_averages(b, at, gradient, image, path, step, n_lanes, tables, j1, plan)
                _through_first(b, at, gh, gx, first, j1, tables, plan)
            second_path += L * paths_per_theta
        _through_image_spectrum(b, at, gx, gradient, out, image, tables, plan)


def gradient_batch(images: Tensor, gradient: Tensor, plan: Plan) -> Tensor:
    """Gradient (B, H, W) of images (B, H, W) in the plan's precision from that of their coefficients."""
    out = images.new_empty(images.shape)
    a2 = workspace_size(plan)
    size = _gradient_parts.py_func(len(plan.source_rows), len(plan.source_columns), a2)[-1]

    def work(part: slice, workspace: NDArray[np.floating]) -> None:
        _differentiate(contiguous(images, part), contiguous(gradient, part), out.numpy()[part], plan, a2, workspace)

    share(work, images, plan, size)
    return out
