"""The matrix products of a decode step: their shapes, and what goes with them so that it takes no launch of its own.

>>> [product.name for product in products_of(work)]
['qkv', 'o', 'up', 'down', 'head']
>>> plan_of(products_of(work)[2], work, multiprocessors=132).variant.name
'dot_bf16_m1_w4_r4_c1_s3_norm_silu'

Where ordinary arithmetic multiplies (linear.is_dot), norms go with the products behind them and the activation with the product
before it: three launches of eleven in a layer, each of which takes longer to start than its bytes. Tensor cores round x before they
multiply, and there they stay launches of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.kernels.cuda.matmul.linear import Plan, is_dot, plan_linear
from membound.kernels.work import Step


@dataclass(frozen=True, slots=True)
class Product:
    """W [n, k] of a step, `count` of them. `accumulate`: added to what is there; `normed`, `finish`: as in Dot."""

    name: str
    n: int
    k: int
    count: int
    accumulate: bool = False
    normed: bool = False
    finish: str = ""


def fuses(work: Step) -> bool:
    """Whether norms and activations go with the products."""
    return is_dot(work.weight, work.batch)


def products_of(work: Step) -> tuple[Product, ...]:
    """One of each kind, in the order of a layer, and the last."""
    model, fused = work.shape, fuses(work)
    finish = ("silu" if model.gated else "gelu") if fused else ""
    up = model.intermediate * (2 if model.gated else 1)
    return (
        Product("qkv", model.q_dim + 2 * model.kv_dim, model.hidden, model.layers, normed=fused),
        Product("o", model.hidden, model.q_dim, model.layers, accumulate=True),
        Product("up", up, model.hidden, model.layers, normed=fused, finish=finish),
        Product("down", model.hidden, model.intermediate, model.layers, accumulate=True),
        Product("head", model.vocab, model.hidden, 1, normed=fused),
    )


def plan_of(product: Product, work: Step, multiprocessors: int) -> Plan:
    """How it is computed."""
    return plan_linear(
        work.weight,
        product.n,
        product.k,
        work.batch,
        multiprocessors,
        product.accumulate,
        product.normed,
        product.finish,
    )
