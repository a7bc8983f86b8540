"""Which kernels a work takes: what must be compiled before it can run on a machine without a compiler.

>>> from membound.kernels.work import parse
>>> [kernel.name for kernel in kernels_of(parse("linear:n=4096,k=4096,m=1,weight=bf16"), multiprocessors=132)]
['dot_bf16_m1_w4_r1_c4_s3']
"""

from __future__ import annotations

from collections.abc import Iterator

from membound.kernels.cuda.attention.cache_append import Append, append_kernel
from membound.kernels.cuda.attention.cache_tiles import Tiles
from membound.kernels.cuda.attention.combine import combine_kernel
from membound.kernels.cuda.attention.decode import attention_kernel
from membound.kernels.cuda.attention.latent import latent_kernel, latent_tiles
from membound.kernels.cuda.attention.plan import unsupported_attention
from membound.kernels.cuda.compile import FP8_TARGET, Kernel, parse_target
from membound.kernels.cuda.instruments import stream
from membound.kernels.cuda.instruments.chains import fma_kernel
from membound.kernels.cuda.instruments.co_runner import TRADES, co_runner_kernel
from membound.kernels.cuda.instruments.free_compute import loaded_plan, refusal
from membound.kernels.cuda.instruments.tile_peak import tile_kernel
from membound.kernels.cuda.matmul.linear import plan_linear, unsupported
from membound.kernels.cuda.step.elementwise import activation_kernel, copy_kernel, norm_kernel
from membound.kernels.cuda.step.products import fuses, plan_of, products_of
from membound.kernels.cuda.step.step import unsupported_step
from membound.kernels.operations import LATENT_VALUE_DIM
from membound.kernels.work import DecodeAttention, LatentAttention, Linear, Step, Work

H100_MULTIPROCESSORS = 132
"""Of the H100 SXM and the H200 (NVIDIA H100 Tensor Core GPU Architecture, table 3)."""
H100_TARGET = "9.0a"


def kernels_of(
    work: Work, multiprocessors: int = H100_MULTIPROCESSORS, target: str = H100_TARGET
) -> tuple[Kernel, ...]:
    """The kernels of one work, each once; none for a work that cannot run on CUDA, or not on that target."""
    if unsupported_on(target, work):
        return ()
    return tuple({kernel.name: kernel for kernel in _kernels(work, multiprocessors)}.values())


def unsupported_on(target: str, work: Work) -> str | None:
    """Why a GPU of that compute capability cannot run a work that newer ones can, or None. Raises CompileError."""
    if getattr(work, "kv", "") == "fp8" and parse_target(target)[:2] < FP8_TARGET:
        return f"fp8 caches need compute capability {'.'.join(map(str, FP8_TARGET))} or newer, not {target}"
    return None


def ceiling_kernels() -> tuple[Kernel, ...]:
    """Those that measure what memory and arithmetic can do."""
    makers = (stream.read_kernel, stream.copy_kernel, stream.triad_kernel)
    tiles = (tile_kernel(fmt) for fmt in ("bf16", "f16"))
    return (*(make(unroll) for unroll in stream.UNROLLS for make in makers), fma_kernel(), *tiles)


def loaded_kernels(work: Work, multiprocessors: int = H100_MULTIPROCESSORS) -> tuple[Kernel, ...]:
    """Those of a work with extra arithmetic, at any dose; none where there is no such kernel."""
    if refusal(work):
        return ()
    if isinstance(work, Linear):
        return loaded_plan(plan_linear(work.weight, work.n, work.k, work.m, multiprocessors)).kernels
    if not isinstance(work, DecodeAttention):
        raise AssertionError(f"{type(work).__name__} is no DecodeAttention")
    return tuple(_attention(tiles_of(work), loaded=True))


def co_runner_kernels() -> tuple[Kernel, ...]:
    """Those of the co-runner, for any victim."""
    return tuple(co_runner_kernel(trade) for trade in TRADES)


def _kernels(work: Work, multiprocessors: int) -> Iterator[Kernel]:
    if isinstance(work, Linear) and not unsupported(work.weight, work.act):
        yield from plan_linear(work.weight, work.n, work.k, work.m, multiprocessors).kernels
    elif isinstance(work, DecodeAttention) and not unsupported_attention(work):
        yield from _attention(tiles_of(work))
    elif isinstance(work, LatentAttention) and not unsupported_attention(work):
        yield latent_kernel(latent_tiles(work.kv, work.q_heads, work.page))
        yield combine_kernel(LATENT_VALUE_DIM)
    elif isinstance(work, Step) and not unsupported_step(work):
        yield from _step(work, multiprocessors)


def tiles_of(work: DecodeAttention) -> Tiles:
    """How its cache lies in memory and in registers."""
    return Tiles(work.kv, work.head_dim, work.q_heads // work.kv_heads, work.page)


def _attention(tiles: Tiles, loaded: bool = False) -> Iterator[Kernel]:
    yield attention_kernel(tiles, loaded)
    yield combine_kernel(tiles.head_dim)


def _step(work: Step, multiprocessors: int) -> Iterator[Kernel]:
    model = work.shape
    yield copy_kernel()
    if not fuses(work):
        yield from (norm_kernel(), activation_kernel(model.gated))
    yield append_kernel(Append(work.kv, model.head_dim, model.qkv_bias, model.qk_norm))
    yield from _attention(Tiles(work.kv, model.head_dim, model.q_heads // model.kv_heads))
    for product in products_of(work):
        yield from plan_of(product, work, multiprocessors).kernels
