import numpy as np
import pytest

from membound.kernels.weights.fp8 import LARGEST, VALUES, decode, encode


@pytest.mark.parametrize(
    ("code", "value"),
    [
        # Table 1 of arXiv 2209.05433 and values by hand.
        (0x00, 0.0),
        (0x01, 2**-9),
        (0x07, 0.875 * 2**-6),
        (0x08, 2**-6),
        (0x30, 0.5),
        (0x38, 1.0),
        (0x39, 1.125),
        (0x40, 2.0),
        (0x7E, 448.0),
        (0xB8, -1.0),
        (0xFE, -448.0),
    ],
)
def test_known_codes(code, value):
    assert decode(np.uint8([code]))[0] == value
    assert encode(np.float32([value]))[0] == code


def test_every_number_survives_and_nan_is_nan():
    codes = np.arange(256, dtype=np.uint8)
    numbers = ~np.isnan(VALUES)
    assert np.array_equal(np.flatnonzero(~numbers), [0x7F, 0xFF])
    assert np.array_equal(encode(VALUES[numbers]), codes[numbers])
    assert encode(np.float32([np.nan]))[0] == 0x7F
    assert np.signbit(decode(np.uint8([0x80])))[0]


def test_the_nearest_number_is_taken_and_the_even_one_of_two():
    values = np.random.default_rng(7).standard_normal(5001).astype(np.float32) * np.float32(30)
    numbers = np.sort(VALUES[~np.isnan(VALUES)])
    nearest = np.abs(values[:, None] - numbers).min(1)
    assert np.array_equal(np.abs(decode(encode(values)) - values), nearest)
    # 1.0625 lies between 1 (even) and 1.125, 1.1875 between 1.125 and 1.25 (even), 2^-10 below half of the least.
    assert decode(encode(np.float32([1.0625, 1.1875, -1.0625, 2**-10]))).tolist() == [1.0, 1.25, -1.0, 0.0]


def test_what_is_too_large_is_cut():
    assert decode(encode(np.float32([449, 1e9, -np.inf]))).tolist() == [LARGEST, LARGEST, -LARGEST]
