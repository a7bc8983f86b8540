"""How far a model's answers may be from the reference where weights of few bits meet float activations."""

from membound.kernels.cpu.matmul.recipe import STREAMED
from membound.kernels.cpu.simd.features import BF16_DOT

STORED_BOUND = 0.01 if STREAMED and BF16_DOT else 1e-5
"""float32 sums; where kernels multiply pairs of bfloat16, x is rounded by up to 2^-9 before each product."""
