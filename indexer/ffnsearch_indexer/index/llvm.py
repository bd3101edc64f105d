"""The steps that code for LLVM is made of, here and in `models.products`."""

from llvmlite import ir
from numba.core import cgutils


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int = 4) -> ir.Value:
    """What is at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Put a value at an address, a multiple of 4."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def splat(builder: ir.IRBuilder, value: ir.Value, times: int = 16) -> ir.Value:
    """A vector of so many times the same value."""
    none = ir.Constant(ir.VectorType(value.type, times), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), times), None)
    return builder.shuffle_vector(builder.insert_element(none, value, ir.IntType(32)(0)), none, zeros)


def zero(builder: ir.IRBuilder, kind: ir.Type) -> ir.Value:
    """Room for a sum that begins with zeros: a register, once it is compiled."""
    return cgutils.alloca_once_value(builder, ir.Constant(kind, None))  # type: ignore[no-untyped-call]
