"""Bytes of a matrix of 4096 × 4096 in each way of storing it, from the layouts alone."""

import pytest

from membound.kernels.weights.formats import FORMATS
from membound.kernels.weights.stored.awq import Awq
from membound.kernels.weights.stored.compressed import Packed, Whole
from membound.kernels.weights.stored.fp8_blocks import Fp8Blocks
from membound.kernels.weights.stored.gptq import Gptq


@pytest.mark.parametrize(
    ("scheme", "nbytes"),
    [
        (Gptq(4, 128), 8_732_672),
        (Awq(128), 8_716_288),
        (Packed(128, symmetric=True), 8_650_768),
        (Fp8Blocks(), 16_781_312),
        (Whole("F8_E4M3", by_row=True), 16_785_408),
    ],
)
def test_bytes_of_4096_by_4096(scheme, nbytes):
    parts = scheme.parts(4096, 4096) | ({} if isinstance(scheme, Whole) else scheme.more(4096, 4096))
    assert sum(part.nbytes for part in parts.values()) == nbytes


def test_blocks_at_the_edge_have_a_scale():
    assert Fp8Blocks().parts(576, 7168)["weight_scale_inv"].nbytes == 5 * 56 * 4 == 1120
    assert FORMATS["fp8b128"].matrix_bytes(576, 7168) == (576 * 7168, 1120)


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [
        ("q4_0", 9_437_184),
        ("q4_k", 9_437_184),
        ("q8_0", 17_825_792),
        ("mxfp4", 8_912_896),
        ("fp8b128", 16_781_312),
    ],
)
def test_formats_of_works(name, nbytes):
    assert sum(FORMATS[name].matrix_bytes(4096, 4096)) == nbytes
