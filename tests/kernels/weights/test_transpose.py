"""Transposed int8 matrices against NumPy's, in whole words and not, signed and unsigned."""

import numpy as np
import pytest

from membound.kernels.weights.transpose import STRIP_ROWS, transposed


@pytest.mark.parametrize(
    "shape", [(8, 8), (1, 8), (16, 3), (37, 96), (40, 24), (STRIP_ROWS, 16), (2 * STRIP_ROWS + 8, 72)]
)
def test_a_matrix_is_transposed(shape):
    matrix = np.random.default_rng().integers(-128, 128, shape, np.int8)
    signed, unsigned = transposed(matrix), transposed(matrix, unsigned=True)
    for result, dtype in ((signed, np.int8), (unsigned, np.uint8)):
        assert result.dtype == dtype
        assert result.flags.c_contiguous
    assert np.array_equal(signed, matrix.T)
    assert np.array_equal(unsigned, matrix.T.astype(np.int16) + 128)


def test_a_matrix_that_lies_column_by_column_is_transposed():
    matrix = np.random.default_rng().integers(-128, 128, (24, 16), np.int8).T
    assert np.array_equal(transposed(matrix), matrix.T)
