"""A product of packed matrices is the product, and no row of it knows of another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from ffnsearch_indexer.models.products import (
    PANEL_COLUMNS,
    ROWS_TOGETHER,
    add_scaled,
    dot_float32,
    multiply_packed,
    pack,
    padded,
)

few = settings(max_examples=30)


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@few
@given(st.integers(1, 5), st.integers(1, 900), st.integers(1, 130), st.integers(0, 99))
def test_it_is_the_product(tiles: int, terms: int, columns: int, seed: int) -> None:
    rows, weight = some(tiles * ROWS_TOGETHER, terms, seed=seed), some(columns, terms, seed=seed + 1)
    before = some(len(rows), padded(columns), seed=seed + 2)
    out = before.copy()
    multiply_packed(rows, pack(weight), out)
    exact = before.astype(np.float64)
    exact[:, :columns] += rows.astype(np.float64) @ weight.T.astype(np.float64)
    np.testing.assert_allclose(out, exact, atol=1e-6 * terms + 1e-6)
    assert (out[:, columns:] == before[:, columns:]).all(), "columns that the matrix does not have"


@few
@given(st.integers(2, 6), st.integers(1, 500), st.integers(0, 99))
def test_a_row_is_the_same_to_the_bit_in_any_company(tiles: int, terms: int, seed: int) -> None:
    rows, packed = some(tiles * ROWS_TOGETHER, terms, seed=seed), pack(some(40, terms, seed=seed + 1))
    together = np.zeros((len(rows), padded(40)), np.float32)
    multiply_packed(rows, packed, together)
    order = np.random.default_rng(seed).permutation(len(rows))[:ROWS_TOGETHER]
    alone = np.zeros((ROWS_TOGETHER, padded(40)), np.float32)
    multiply_packed(rows[order], packed, alone)
    assert alone.tobytes() == together[order].tobytes()


def test_rows_may_be_those_of_a_wider_array() -> None:
    wide, packed = some(2 * ROWS_TOGETHER, 50), pack(some(33, 20))
    out = np.zeros((2 * ROWS_TOGETHER, 3 * PANEL_COLUMNS), np.float32)
    multiply_packed(wide[:, 10:30], packed, out[:, PANEL_COLUMNS:])
    expected = np.zeros((2 * ROWS_TOGETHER, 2 * PANEL_COLUMNS), np.float32)
    multiply_packed(wide[:, 10:30].copy(), packed, expected)
    assert (out[:, :PANEL_COLUMNS] == 0).all()
    assert out[:, PANEL_COLUMNS:].tobytes() == expected.tobytes()


def test_matrices_are_packed_one_by_one() -> None:
    weights = some(3, 45, 7)
    packed = pack(weights)
    assert packed.shape == (3, 2, 7, PANEL_COLUMNS)
    assert all((pack(weight) == of_stack).all() for weight, of_stack in zip(weights, packed, strict=True))
    assert (packed[1, 1, :, 45 - PANEL_COLUMNS :] == 0).all()


@njit
def dot_of(one, other):  # type: ignore[no-untyped-def]
    return dot_float32(one.ctypes.data, other.ctypes.data, len(one))


@njit
def add_to(out, factor, row):  # type: ignore[no-untyped-def]
    add_scaled(out.ctypes.data, factor, row.ctypes.data, len(row))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 64, 99])
def test_rows_are_multiplied_and_added(count: int) -> None:
    one, other, out = some(count), some(count, seed=1), some(count + 1, seed=2)
    assert dot_of(one, other) == pytest.approx(float(one.astype(np.float64) @ other), abs=1e-4)
    expected = out + np.append(np.float32(0.5) * one, np.float32(0))
    add_to(out, np.float32(0.5), one)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert out[-1] == expected[-1], "written behind the end"
