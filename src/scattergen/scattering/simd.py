# mypy: ignore-errors
# Numba compiles these functions: what they compute with has no Python types.
"""Vectors of LANES numbers in Numba: the arithmetic of one vector register, and its memory.

Numba leaves vectorisation to the compiler, which gives up on the butterflies of an FFT. With vectors as a type of
their own, +, -, *, `load`, `store`, `spread` and `square_root` are one instruction each, `quotient` is three.
"""

import operator

import numba
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

from scattergen.scattering.plan import LANES

if numba.config.DISABLE_JIT:
    raise ImportError("Vectors exist in compiled code only, and NUMBA_DISABLE_JIT is set.")

compiled = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of functions that only compiled functions call."""

inlined = numba.njit(forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""The same, compiled into their callers."""


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
