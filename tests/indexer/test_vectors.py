"""What compiled code asks of the processor gives what numpy gives, and writes nowhere else."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from ffnsearch_indexer.hardware import vectors
from ffnsearch_indexer.hardware.vectors import COLUMNS, LINE_BYTES, aligned, aligned_zeros

FLOATS = np.array([0, -0.0, 1, -1, 1.5, 1e-45, 2.0**-126, -(2.0**-127), 3e38, np.inf, -np.inf, np.nan], np.float32)


@numba.njit(nogil=True)
def take_all(counter: np.ndarray, step: int, last: int, taken: np.ndarray) -> None:
    while True:
        first = vectors.take(counter, step)
        if first >= last:
            return
        taken[first : first + step] += 1


@numba.njit
def above_all(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    found = np.empty((len(limits), len(values)), np.uint32)
    for number in range(len(limits)):
        for row in range(len(values)):
            found[number, row] = vectors.above(values, row, limits[number])
    return found


@numba.njit
def sum_above(
    scale: float, values: np.ndarray, row: int, other_scale: float, others: np.ndarray, other_row: int, limit: float
) -> int:
    return vectors.sum_above(scale, values, row, other_scale, others, other_row, limit)


@numba.njit
def copy_rows(target: np.ndarray, rows: np.ndarray, source: np.ndarray, from_rows: np.ndarray) -> None:
    for number in range(len(rows)):
        vectors.copy_row(target, rows[number], source, from_rows[number])


@numba.njit
def bits_of(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lowest, counted = np.empty(len(masks), np.int64), np.empty(len(masks), np.int64)
    for number in range(len(masks)):
        lowest[number], counted[number] = vectors.lowest_bit(masks[number]), vectors.bits_set(masks[number])
    return lowest, counted


@numba.njit
def there_and_back(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, again = np.empty(len(bits), np.float32), np.empty(len(bits), np.uint32)
    for number in range(len(bits)):
        values[number] = vectors.as_float32(bits[number])
        again[number] = vectors.as_bits(values[number])
    return values, again


@numba.njit
def widen_all(bits: np.ndarray) -> np.ndarray:
    values = np.empty(len(bits), np.float32)
    for place in range(len(bits)):
        values[place] = vectors.widened(bits[place])
    return values


@numba.njit
def fetch_all(array: np.ndarray, rows: np.ndarray) -> None:
    for row in rows:
        vectors.prefetch(array, row)


@numba.njit
def doubled(values: np.ndarray) -> np.ndarray:
    vectors.use_widest_vectors()
    return values * np.float32(2)


@pytest.mark.parametrize("threads", [1, 4])
def test_what_threads_take_is_all_and_nothing_twice(threads: int) -> None:
    for step, last in ((1, 0), (1, 100_000), (7, 100_000), (512, 511)):
        counter, taken = np.zeros(1, np.int64), np.zeros(100_600, np.int64)
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(take_all, counter, step, last, taken) for _ in range(threads)]:
                future.result()
        assert (taken[:last] == 1).all()
        assert taken.sum() == -(-last // step) * step
        assert counter[0] == taken.sum() + threads * step


def packed(is_above: np.ndarray) -> np.ndarray:
    """Rows of 32 answers as bits, the first the lowest."""
    return np.packbits(is_above, axis=-1, bitorder="little").view(np.uint32)[..., 0]


def test_above_is_a_bit_for_each_value_that_exceeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice(np.append(FLOATS, rng.standard_normal(8)), (50, COLUMNS)).astype(np.float32)
    values[0], values[1] = -np.inf, 1
    values[2, :31] = -1
    limits = np.append(FLOATS, np.nextafter(np.float32(1), np.float32([-2, 2])))
    with np.errstate(invalid="ignore"):
        expected = values > limits[:, None, None]
    np.testing.assert_array_equal(above_all(values, limits), packed(expected))
    assert above_all(np.ones((1, COLUMNS), np.float32), np.float32([0])) == 0xFFFFFFFF


def test_sum_above_is_a_bit_for_each_sum_that_exceeds() -> None:
    rng = np.random.default_rng(0)
    values, others = (rng.standard_normal((9, COLUMNS)).astype(np.float32) for _ in range(2))
    for row in range(9):
        scale, other_scale, other_row = np.float32(rng.normal()), np.float32(rng.normal()), (row * 5) % 9
        sums = np.float64(scale) * values[row] + np.float64(other_scale) * others[other_row]
        for limit in [*rng.normal(size=4).astype(np.float32), np.float32(-9), np.float32(9)]:
            found = sum_above(scale, values, row, other_scale, others, other_row, limit)
            wanted = sums > limit
            assert (abs(sums - limit) > 1e-5).all(), "the case is too close to compare"
            assert found == packed(wanted)


def test_sums_that_equal_the_limit_do_not_exceed_it() -> None:
    values = np.arange(-64, 64, dtype=np.float32).reshape(4, COLUMNS)
    for row, other_row, limit in ((0, 3, 0), (1, 2, -17), (2, 2, 80), (3, 0, 1), (1, 1, -31)):
        wanted = 3 * values[row] + 2 * values[other_row] > limit
        assert sum_above(3, values, row, 2, values, other_row, limit) == packed(wanted)


@pytest.mark.parametrize("K", [0, 32, 96, 352])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_copy_row_writes_that_row_alone(K: int, dtype: type) -> None:
    rng = np.random.default_rng(K)
    source, target = rng.integers(0, 99, (7, K)).astype(dtype), rng.integers(100, 199, (16, K)).astype(dtype)
    expected, untouched = target.copy(), source.copy()
    rows, from_rows = np.array([15, 0, 7, 7]), np.array([6, 0, 3, 5], np.int32)
    for row, from_row in zip(rows, from_rows, strict=True):
        expected[row] = source[from_row]
    copy_rows(target, rows, source, from_rows)
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(source, untouched)


def test_bits_are_found_and_counted() -> None:
    rng = np.random.default_rng(0)
    powers = np.uint32(1) << np.arange(32, dtype=np.uint32)
    masks = np.concatenate([powers, ~powers, rng.integers(1, 1 << 32, 200, np.uint32), np.uint32([0xFFFFFFFF])])
    lowest, counted = bits_of(masks)
    assert lowest.tolist() == [(mask & -mask).bit_length() - 1 for mask in masks.tolist()]
    assert counted.tolist() == [mask.bit_count() for mask in masks.tolist()]
    assert bits_of(np.uint32([0]))[1].tolist() == [0]


def test_float32_values_have_the_bits_that_numpy_sees() -> None:
    rng = np.random.default_rng(0)
    bits = np.concatenate([FLOATS.view(np.uint32), rng.integers(0, 1 << 32, 1000, np.uint32)])
    values, again = there_and_back(bits)
    np.testing.assert_array_equal(values.view(np.uint32), bits)
    np.testing.assert_array_equal(again, bits)


def test_a_processor_widens_float16_as_numpy_does() -> None:
    bits = np.arange(1 << 16).astype(np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    for values in (widen_all(bits), np.array([widen_all(bits[place : place + 1])[0] for place in range(1 << 16)])):
        is_number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(values), ~is_number)
        np.testing.assert_array_equal(values[is_number].view(np.uint32), expected[is_number].view(np.uint32))


def test_fetching_ahead_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (3, 200, 33), (5, 32, 0), (4, 0)]:
        for dtype in (np.int8, np.float32):
            array = rng.integers(0, 100, shape).astype(dtype)
            before = array.copy()
            for kind in (np.int32, np.int64):
                fetch_all(array, np.array([0, len(array) - 1], kind))
            np.testing.assert_array_equal(array, before)


def test_the_widest_vectors_are_asked_for_where_they_are_wanted() -> None:
    values = np.arange(100, dtype=np.float32)
    np.testing.assert_array_equal(doubled(values), 2 * values)
    asked = '"prefer-vector-width"="512"'
    assert all(asked in code for code in doubled.inspect_llvm().values())
    widen_all(np.zeros(1, np.uint16))
    assert not any(asked in code for code in widen_all.inspect_llvm().values())


@pytest.mark.parametrize("shape", [(1,), (64,), (3, 5), (2, 16, 32), (0,), (16, 0), (0, 4)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float32, np.int64])
def test_an_aligned_array_is_the_same_one_or_a_copy(shape: tuple[int, ...], dtype: type) -> None:
    zeros = aligned_zeros(shape, dtype)
    assert (zeros.shape, zeros.dtype, zeros.flags.c_contiguous) == (shape, dtype, True)
    assert not zeros.any()
    assert aligned(zeros) is zeros
    beside = np.zeros(zeros.nbytes + 2 * LINE_BYTES, np.uint8)
    first = -beside.ctypes.data % LINE_BYTES + zeros.itemsize
    array = beside[first : first + zeros.nbytes].view(dtype).reshape(shape)
    array[...] = np.random.default_rng(0).integers(0, 100, shape)
    found = aligned(array)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == dtype
    assert not found.size or found.ctypes.data % LINE_BYTES == 0
