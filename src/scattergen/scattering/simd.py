# mypy: ignore-errors
# Numba compiles these functions: what they compute with has no Python types.
"""Vectors of LANES numbers in Numba, and FFTs (Stockham's algorithm) of lines of them, LANES transforms at once.

Numba leaves vectorisation to the compiler, which gives up on the butterflies of an FFT. With vectors as a type of
their own, +, -, *, `load`, `store`, `spread` and `square_root` are one instruction each, `quotient` is three.

All intermediates of a scattering transform live in one workspace b. A line starts at s (source) or d (destination) and
advances by ss or ds floats. A pass of radix r splits q interleaved transforms of length n into q·r of length n / r; tw
holds exp(-2πi k / (n q)) from position t.
"""

import operator

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

from scattergen.scattering.plan import COMPLEX, LANES

if numba.config.DISABLE_JIT:
    raise ImportError("Vectors exist in compiled code only, and NUMBA_DISABLE_JIT is set.")

# Decorators of functions that only compiled functions call, and of those that are compiled into their callers.
compiled = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
inlined = numba.njit(forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Vector(types.Type):
    """LANES numbers in a vector register."""

    def __init__(self, scalar: types.Float):
        super().__init__(name=f"Vector({scalar})")
        self.scalar = scalar


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector: Vector):
        scalar = manager.lookup(vector.scalar).get_value_type()
        super().__init__(manager, vector, ir.VectorType(scalar, LANES))


def _arithmetic(operation, instruction: str):
    @type_callable(operation)
    def type_operation(context):
        return lambda a, b: a if isinstance(a, Vector) and a == b else None

    @lower_builtin(operation, Vector, Vector)
    def lower(context, builder, signature, operands):
        # "contract" lets a product and a sum become one fused instruction.
        return getattr(builder, instruction)(*operands, flags=("contract",))


_arithmetic(operator.add, "fadd")
_arithmetic(operator.iadd, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.isub, "fsub")
_arithmetic(operator.mul, "fmul")


@intrinsic
def pointer_to(typing_context, array):
    """Address of an array's first element, because passing arrays to functions costs reference counts."""

    def generate(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def load(typing_context, pointer, index):
    """Vector pointer[index : index + LANES]."""
    vector = Vector(pointer.dtype)

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(vector)
        value = builder.load(builder.bitcast(builder.gep(arguments[0], [arguments[1]]), kind.as_pointer()))
        value.align = pointer.dtype.bitwidth // 8
        return value

    return vector(pointer, types.intp), generate


@intrinsic
def store(typing_context, pointer, index, vector):
    """pointer[index : index + LANES] = vector."""

    def generate(context, builder, signature, arguments):
        value = arguments[2]
        address = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), value.type.as_pointer())
        builder.store(value, address).align = pointer.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.none(pointer, types.intp, vector), generate


@intrinsic
def spread(typing_context, pointer, index):
    """Vector with pointer[index] in every lane."""
    vector = Vector(pointer.dtype)

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(vector)
        scalar = builder.load(builder.gep(arguments[0], [arguments[1]]))
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(first, first, mask)

    return vector(pointer, types.intp), generate


@intrinsic
def zero(typing_context, pointer):
    """Vector of zeros of a pointer's type."""
    vector = Vector(pointer.dtype)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(vector), None)

    return vector(pointer), generate


@intrinsic
def square_root(typing_context, vector):
    """Square root of every lane."""

    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        suffix = f"v{LANES}f{vector.scalar.bitwidth}"
        function = builder.module.declare_intrinsic(f"llvm.sqrt.{suffix}", fnty=ir.FunctionType(kind, [kind]))
        return builder.call(function, arguments)

    return vector(vector), generate


@intrinsic
def quotient(typing_context, numerator, denominator):
    """Quotient of every lane, 0 where the denominator is 0."""

    def generate(context, builder, signature, arguments):
        none = ir.Constant(arguments[1].type, None)
        defined = builder.fcmp_unordered("!=", arguments[1], none)
        return builder.select(defined, builder.fdiv(*arguments), none)

    return numerator(numerator, denominator), generate


@inlined
def load_complex(b, at):
    """Real and imaginary parts of the complex vector at b[at]."""
    return load(b, at), load(b, at + LANES)


@inlined
def store_complex(b, at, r, i):
    """Write real and imaginary parts to b[at]."""
    store(b, at, r)
    store(b, at + LANES, i)


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
