"""The small steps that generated code for LLVM is made of."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

Generate = Callable[[Any, ir.IRBuilder, Any, list[ir.Value]], ir.Value]
"""What generates the code of one of numba's intrinsics: generate(context, builder, signature, arguments)."""

BYTE, SHORT, INT, LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
POINTER = BYTE.as_pointer()


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int = 4) -> ir.Value:
    """What is at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Put a value at an address, a multiple of 4."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def splat(builder: ir.IRBuilder, value: ir.Value, times: int = 16) -> ir.Value:
    """A vector that holds the same value in all of its places."""
    none = ir.Constant(ir.VectorType(value.type, times), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), times), None)
    return builder.shuffle_vector(builder.insert_element(none, value, ir.IntType(32)(0)), none, zeros)


def zero(builder: ir.IRBuilder, kind: ir.Type) -> ir.Value:
    """A variable for a sum, which starts at zero: a register, once it is compiled."""
    return cgutils.alloca_once_value(builder, ir.Constant(kind, None))  # type: ignore[no-untyped-call]


def row_of(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value], array: int, row: int
) -> tuple[ir.Value, ir.Value]:
    """The address of a row of an array in C order, and the bytes of a row.

    array, row: the places of the two among the arguments.
    """
    source = context.make_array(signature.args[array])(context, builder, arguments[array])
    size = source.itemsize
    for axis in range(1, signature.args[array].ndim):  # the strides of arrays without items are arbitrary
        size = builder.mul(size, builder.extract_value(source.shape, axis))
    number = context.cast(builder, arguments[row], signature.args[row], types.intp)
    return builder.add(builder.ptrtoint(source.data, LONG), builder.mul(number, size)), size
