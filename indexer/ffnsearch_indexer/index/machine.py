"""What compiled code can ask of a processor that numba has no word for; LLVM has it for any processor."""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE_BYTES = 64
"""What a processor fetches from memory at once."""

_Generate = Callable[[Any, ir.IRBuilder, Any, list[ir.Value]], ir.Value]


def _widened(typing_context: Any, bits: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), generate


def _prefetch(typing_context: Any, array: Any, row: Any) -> tuple[Any, _Generate]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(source.strides, 0)
        number = context.cast(builder, arguments[1], signature.args[1], types.intp)
        first = builder.add(builder.ptrtoint(source.data, stride.type), builder.mul(number, stride))
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        settings = [ir.IntType(32)(value) for value in (0, 3, 1)]  # to be read, kept in every cache, data
        with cgutils.for_range_slice(builder, stride.type(0), stride, stride.type(LINE_BYTES), stride.type) as (at, _):
            builder.call(fetch, [builder.inttoptr(builder.add(first, at), byte), *settings])
        return context.get_dummy_value()

    return types.none(array, row), generate


widened = cast("Callable[[Any], np.float32]", intrinsic(_widened))
"""The float32 value of a float16 that is given by its bits (uint16): exact, and one instruction for a whole vector."""

prefetch = cast("Callable[[Any, Any], None]", intrinsic(_prefetch))
"""Let the processor fetch a row of an array in C order into its cache, while something else is computed."""
