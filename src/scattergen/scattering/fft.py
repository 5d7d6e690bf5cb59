# mypy: ignore-errors
# Numba compiles these functions: what they compute with has no Python types.
"""FFTs of lines of complex vectors, LANES transforms at once (Stockham's algorithm), for Numba.

All intermediates of a scattering transform live in one workspace b. A line starts at s (source) or d (destination)
and advances by ss or ds floats. A pass of radix r splits q interleaved transforms of length n into q·r of length
n / r; tw holds exp(-2πi k / (n q)) from position t.
"""

import numpy as np

from scattergen.scattering.plan import COMPLEX
from scattergen.scattering.simd import compiled, inlined, load_complex, pointer_to, spread, store_complex, zero


@inlined
def _store_rotated(b, at, r, i, tw, t):
    """Write r + i·i times the twiddle at t."""
    wr, wi = spread(tw, t), spread(tw, t + 1)
    store_complex(b, at, r * wr - i * wi, r * wi + i * wr)


@compiled
def _pass2(b, s, ss, d, ds, n, q, tw, t):
    m = n // 2
    for p in range(m):
        w = t + 2 * q * p
        w1r, w1i = spread(tw, w), spread(tw, w + 1)
        for k in range(q):
            x, dx = s + (k + q * p) * ss, q * m * ss
            y, dy = d + (k + q * 2 * p) * ds, q * ds
            ar, ai = load_complex(b, x)
            br, bi = load_complex(b, x + dx)
            store_complex(b, y, ar + br, ai + bi)
            ur, ui = ar - br, ai - bi
            store_complex(b, y + dy, ur * w1r - ui * w1i, ur * w1i + ui * w1r)


@compiled
def _pass3(b, s, ss, d, ds, n, q, tw, t, constants):
    m = n // 3
    cosine, sine = spread(constants, 0), spread(constants, 1)
    for p in range(m):
        w = t + 2 * q * p
        w1r, w1i = spread(tw, w), spread(tw, w + 1)
        w += 2 * q * p
        w2r, w2i = spread(tw, w), spread(tw, w + 1)
        for k in range(q):
            x, dx = s + (k + q * p) * ss, q * m * ss
            y, dy = d + (k + q * 3 * p) * ds, q * ds
            ar, ai = load_complex(b, x)
            br, bi = load_complex(b, x + dx)
            cr, ci = load_complex(b, x + 2 * dx)
            tr, ti = br + cr, bi + ci
            ur, ui = (bi - ci) * sine, (cr - br) * sine
            store_complex(b, y, ar + tr, ai + ti)
            tr, ti = ar + tr * cosine, ai + ti * cosine
            br, bi, cr, ci = tr + ur, ti + ui, tr - ur, ti - ui
            store_complex(b, y + dy, br * w1r - bi * w1i, br * w1i + bi * w1r)
            store_complex(b, y + 2 * dy, cr * w2r - ci * w2i, cr * w2i + ci * w2r)


@compiled
def _pass4(b, s, ss, d, ds, n, q, tw, t):
    m = n // 4
    for p in range(m):
        w = t + 2 * q * p
        w1r, w1i = spread(tw, w), spread(tw, w + 1)
        w += 2 * q * p
        w2r, w2i = spread(tw, w), spread(tw, w + 1)
        w += 2 * q * p
        w3r, w3i = spread(tw, w), spread(tw, w + 1)
        for k in range(q):
            x, dx = s + (k + q * p) * ss, q * m * ss
            y, dy = d + (k + q * 4 * p) * ds, q * ds
            ar, ai = load_complex(b, x)
            br, bi = load_complex(b, x + dx)
            cr, ci = load_complex(b, x + 2 * dx)
            er, ei = load_complex(b, x + 3 * dx)
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + er, bi + ei, bi - ei, er - br
            store_complex(b, y, sr + ur, si + ui)
            br, bi, cr, ci, er, ei = tr + vr, ti + vi, sr - ur, si - ui, tr - vr, ti - vi
            store_complex(b, y + dy, br * w1r - bi * w1i, br * w1i + bi * w1r)
            store_complex(b, y + 2 * dy, cr * w2r - ci * w2i, cr * w2i + ci * w2r)
            store_complex(b, y + 3 * dy, er * w3r - ei * w3i, er * w3i + ei * w3r)


@compiled
def _pass5(b, s, ss, d, ds, n, q, tw, t, constants):
    m = n // 5
    c1, s1, c2, s2 = spread(constants, 2), spread(constants, 3), spread(constants, 4), spread(constants, 5)
    for p in range(m):
        for k in range(q):
            x, dx = s + (k + q * p) * ss, q * m * ss
            y, dy = d + (k + q * 5 * p) * ds, q * ds
            ar, ai = load_complex(b, x)
            br, bi = load_complex(b, x + dx)
            cr, ci = load_complex(b, x + 2 * dx)
            er, ei = load_complex(b, x + 3 * dx)
            fr, fi = load_complex(b, x + 4 * dx)
            pr, pi, mr, mi = br + fr, bi + fi, br - fr, bi - fi
            ur, ui, vr, vi = cr + er, ci + ei, cr - er, ci - ei
            store_complex(b, y, ar + pr + ur, ai + pi + ui)
            xr, xi = ar + pr * c1 + ur * c2, ai + pi * c1 + ui * c2
            zr, zi = mi * s1 + vi * s2, mr * s1 + vr * s2
            step = 2 * q * p
            _store_rotated(b, y + dy, xr + zr, xi - zi, tw, t + step)
            _store_rotated(b, y + 4 * dy, xr - zr, xi + zi, tw, t + 4 * step)
            xr, xi = ar + pr * c2 + ur * c1, ai + pi * c2 + ui * c1
            zr, zi = mi * s2 - vi * s1, mr * s2 - vr * s1
            _store_rotated(b, y + 2 * dy, xr + zr, xi - zi, tw, t + 2 * step)
            _store_rotated(b, y + 3 * dy, xr - zr, xi + zi, tw, t + 3 * step)


@compiled
def _pass_odd(b, s, ss, d, ds, n, q, radix, tw, t):
    """Any odd radix: y_k = x_0 + Σ_j (x_j + x_{r-j}) cos(2πjk/r) - i (x_j - x_{r-j}) sin."""
    m = n // radix
    half = (radix + 1) // 2
    for p in range(m):
        for k in range(q):
            x, dx = s + (k + q * p) * ss, q * m * ss
            y, dy = d + (k + q * radix * p) * ds, q * ds
            for f in range(half):
                er, ei = load_complex(b, x)
                ur, ui = zero(b), zero(b)
                for j in range(1, half):
                    w = t + 2 * (j * f % radix) * m * q
                    cosine, sine = spread(tw, w), spread(tw, w + 1)  # of the negative angle
                    ar, ai = load_complex(b, x + j * dx)
                    cr, ci = load_complex(b, x + (radix - j) * dx)
                    er, ei = er + (ar + cr) * cosine, ei + (ai + ci) * cosine
                    ur, ui = ur + (ci - ai) * sine, ui + (ar - cr) * sine
                _store_rotated(b, y + f * dy, er + ur, ei + ui, tw, t + 2 * q * p * f)
                if f > 0:
                    _store_rotated(b, y + (radix - f) * dy, er - ur, ei - ui, tw, t + 2 * q * p * (radix - f))


@compiled
def fft(b, s, ss, d, ds, line, n, axis, level):
    """Transform the line at s to d, which may be s, with two scratch lines from `line` on."""
    radices, most, tw, start, constants = axis[:5]
    t = start[level]
    q, length, number = np.int64(1), n, 0
    while length > 1:
        radix = radices[level * most + number]
        if length == radix:
            to, step = d, ds
        else:
            to, step = line + (number % 2) * n * COMPLEX, COMPLEX
        if radix == 4:
            _pass4(b, s, ss, to, step, length, q, tw, t)
        elif radix == 2:
            _pass2(b, s, ss, to, step, length, q, tw, t)
        elif radix == 3:
            _pass3(b, s, ss, to, step, length, q, tw, t, constants)
        elif radix == 5:
            _pass5(b, s, ss, to, step, length, q, tw, t, constants)
        else:
            _pass_odd(b, s, ss, to, step, length, q, radix, tw, t)
        s, ss = to, step
        q, length, number = q * radix, length // radix, number + 1


@inlined
def axis_tables(axis, constants):
    """An `Axis` and the cosines of radices 3 and 5 as pointers, which functions take at no cost."""
    return (
        pointer_to(axis.radices), axis.radices.shape[1], pointer_to(axis.twiddles),
        pointer_to(axis.start), pointer_to(constants),
        pointer_to(axis.low_pass), pointer_to(axis.low_pass_start),
    )  # fmt: skip
