"""Products of a few rows with a matrix that was packed beforehand, in which no row depends on another.

Every number of a result is the sum of its products in the order of the matrix' rows, each added in one rounding where
the processor can (fma): the same bits, whatever other rows there are, and however the work is cut. Libraries choose
another order for another number of rows. Packing serves small numbers of rows: twelve of them go at the speed of a
thousand.

numba caches compiled code by this file's timestamp only: after a change in `hardware`, run `make clean`.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ffnsearch_indexer.hardware.compiled import numba
from ffnsearch_indexer.hardware.llvm import load, splat, store
from ffnsearch_indexer.hardware.vectors import aligned_zeros, use_widest_vectors

PANEL_COLUMNS = 32
"""Columns that are packed together, and the multiple of columns that a result has."""

ROWS_TOGETHER = 12 if llvmlite.binding.get_host_cpu_features().get("avx512f", False) else 2
"""Rows that are multiplied at once: their sums of so many columns, and no more, stay in a processor's registers."""

_STEP = (
    384  # products that are added before the next columns come: as many rows of packed columns fit the nearest cache
)
_VALUES = 16  # of a vector; where a register holds fewer, LLVM takes several
_LONG, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, _VALUES)


@numba.njit(nogil=True, cache=True)
def padded(width: int) -> int:
    """The columns of a result whose matrix has `width` columns."""
    return -(-width // PANEL_COLUMNS) * PANEL_COLUMNS


def pack(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put a matrix [..., M, K], as `torch.nn.Linear` has it, in the order in which `multiply_packed` reads it.

    Returns [..., padded(M) / 32, K, 32] float32, with zeros for columns that the matrix does not have.
    """
    *stacked, M, K = weight.shape
    whole = np.zeros((*stacked, padded(M), K), np.float32)
    whole[..., :M, :] = weight
    packed = aligned_zeros((*stacked, padded(M) // PANEL_COLUMNS, K, PANEL_COLUMNS), np.float32)
    packed[...] = whole.reshape(*stacked, -1, PANEL_COLUMNS, K).swapaxes(-1, -2)
    return packed


@numba.njit(nogil=True, cache=True)
def multiply_packed(rows: NDArray[np.float32], packed: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Add rows [n, K] times a packed matrix [P, K, 32] to out [n, 32 P]; n is a multiple of ROWS_TOGETHER.

    Rows follow one another at any distance, the values of each without a gap.
    """
    use_widest_vectors()
    terms = packed.shape[1]
    for first_term in range(0, terms, _STEP):
        here = min(_STEP, terms - first_term)
        for panel in range(packed.shape[0]):
            for row in range(0, rows.shape[0], ROWS_TOGETHER):
                _multiply_rows(
                    rows.ctypes.data + row * rows.strides[0] + 4 * first_term,
                    rows.strides[0],
                    packed.ctypes.data + panel * packed.strides[0] + first_term * packed.strides[1],
                    here,
                    out.ctypes.data + row * out.strides[0] + 4 * PANEL_COLUMNS * panel,
                    out.strides[0],
                )


def _of_rows(
    typing_context: Any, rows: Any, row_bytes: Any, packed: Any, terms: Any, out: Any, out_bytes: Any
) -> tuple[Any, Callable[..., ir.Value]]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[ir.Value]) -> ir.Value:
        rows, row_bytes, packed, terms, out, out_bytes = values
        builder.function.attributes.add("noinline")  # it is called from many places
        places = [
            [builder.add(builder.add(out, builder.mul(out_bytes, _LONG(row))), _LONG(4 * first)) for first in _FIRSTS]
            for row in range(ROWS_TOGETHER)
        ]
        before = [[load(builder, place, _VECTOR) for place in of_row] for of_row in places]
        entry, loop, end = builder.block, builder.append_basic_block("terms"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        term = builder.phi(_LONG)
        sums = [[builder.phi(_VECTOR) for _ in of_row] for of_row in before]
        after = _add_term(builder, rows, row_bytes, packed, term, sums)
        next_term = builder.add(term, _LONG(1))
        _join(term, entry, _LONG(0), loop, next_term)
        for row in range(ROWS_TOGETHER):
            for part in range(len(_FIRSTS)):
                _join(sums[row][part], entry, before[row][part], loop, after[row][part])
        builder.cbranch(builder.icmp_signed("<", next_term, terms), loop, end)
        builder.position_at_end(end)
        for row in range(ROWS_TOGETHER):
            for part, place in enumerate(places[row]):
                store(builder, after[row][part], place)
        return context.get_dummy_value()

    return types.none(*[types.intp] * 6), generate


_FIRSTS = range(0, PANEL_COLUMNS, _VALUES)


def _add_term(
    builder: ir.IRBuilder,
    rows: ir.Value,
    row_bytes: ir.Value,
    packed: ir.Value,
    term: ir.Value,
    sums: list[list[ir.Value]],
) -> list[list[ir.Value]]:
    """The sums of ROWS_TOGETHER rows after one more product each."""
    of_matrix = builder.add(packed, builder.mul(term, _LONG(4 * PANEL_COLUMNS)))
    factors = [load(builder, builder.add(of_matrix, _LONG(4 * first)), _VECTOR) for first in _FIRSTS]
    of_rows = builder.add(rows, builder.mul(term, _LONG(4)))
    after = []
    for row in range(ROWS_TOGETHER):
        value = load(builder, builder.add(of_rows, builder.mul(row_bytes, _LONG(row))), _FLOAT)
        everywhere = splat(builder, value)
        after.append([_fused(builder, _VECTOR, everywhere, *pair) for pair in zip(factors, sums[row], strict=True)])
    return after


def _of_dot(typing_context: Any, one: Any, other: Any, count: Any) -> tuple[Any, Callable[..., ir.Value]]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[ir.Value]) -> ir.Value:
        sums = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None))  # type: ignore[no-untyped-call]
        total = cgutils.alloca_once_value(builder, _FLOAT(0.0))  # type: ignore[no-untyped-call]
        for kind, into, place in _vectors_then_rest(builder, values[2], sums, total):
            one, other = (load(builder, builder.add(address, place), kind) for address in values[:2])
            builder.store(_fused(builder, kind, one, other, builder.load(into)), into)
        reduce = ir.FunctionType(_FLOAT, [_FLOAT, _VECTOR])
        function = cgutils.get_or_insert_function(builder.module, reduce, f"llvm.vector.reduce.fadd.v{_VALUES}f32")  # type: ignore[no-untyped-call]
        return builder.call(function, [builder.load(total), builder.load(sums)], fastmath=("reassoc",))

    return numba.float32(types.intp, types.intp, types.intp), generate


def _of_add_scaled(
    typing_context: Any, out: Any, factor: Any, values: Any, count: Any
) -> tuple[Any, Callable[..., ir.Value]]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[ir.Value]) -> ir.Value:
        out, factor, source, count = values
        for kind, scale, place in _vectors_then_rest(builder, count, splat(builder, factor), factor):
            target = builder.add(out, place)
            added = _fused(
                builder, kind, scale, load(builder, builder.add(source, place), kind), load(builder, target, kind)
            )
            store(builder, added, target)
        return context.get_dummy_value()

    return types.none(types.intp, numba.float32, types.intp, types.intp), generate


def _vectors_then_rest(
    builder: ir.IRBuilder, count: ir.Value, of_vectors: ir.Value, of_rest: ir.Value
) -> Iterator[tuple[ir.Type, ir.Value, ir.Value]]:
    """Generate two loops over `count` values, of vectors and of those left; yields type, its operand, bytes so far."""
    whole = builder.and_(count, _LONG(-_VALUES))
    with cgutils.for_range_slice(builder, _LONG(0), whole, _LONG(_VALUES), _LONG) as (at, _):
        yield _VECTOR, of_vectors, builder.mul(at, _LONG(4))
    with cgutils.for_range_slice(builder, whole, count, _LONG(1), _LONG) as (at, _):
        yield _FLOAT, of_rest, builder.mul(at, _LONG(4))


def _fused(builder: ir.IRBuilder, kind: ir.Type, one: ir.Value, other: ir.Value, added: ir.Value) -> ir.Value:
    """One * other + added, in one rounding where the processor can."""
    name = f"llvm.fma.{f'v{_VALUES}' if kind is _VECTOR else ''}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)  # type: ignore[no-untyped-call]
    return builder.call(function, [one, other, added])


def _join(phi: Any, entry: ir.Block, at_first: ir.Value, loop: ir.Block, then: ir.Value) -> None:
    phi.add_incoming(at_first, entry)
    phi.add_incoming(then, loop)


_multiply_rows = cast("Callable[..., None]", intrinsic(_of_rows))
"""Add to ROWS_TOGETHER rows of sums the products of as many rows with PANEL_COLUMNS packed columns.

Takes the address of the rows and the bytes from one to the next, the address of the packed columns, how many products a
sum has, and the address of the sums and the bytes from one row of them to the next.
"""

dot_float32 = cast("Callable[[int, int, int], np.float32]", intrinsic(_of_dot))
"""The product of two rows, summed in a fixed order: their addresses, and how many values they have."""

add_scaled = cast("Callable[[int, float, int, int], None]", intrinsic(_of_add_scaled))
"""Add a multiple of a row to another: address of the sum, factor, address of the row, how many values they have."""
