"""Every CUDA kernel as PTX, run by the executor on small shapes and compared with the float64 reference.

Twice: copies as late as the ISA allows, looking for races; then as early, with the warps the other way round.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
from executor.copies import EARLY, LATE
from executor.gpu import PtxGpu

from membound.backends.numba.gpu import NumbaCuda
from membound.kernels.cuda import catalogue
from membound.kernels.cuda.device import driver
from membound.kernels.cuda.instruments import chains, co_runner, stream, tile_peak
from membound.kernels.cuda.matmul import linear
from membound.kernels.cuda.matmul.linear import Plan
from membound.kernels.cuda.matmul.tensor import Tensor
from membound.kernels.cuda.ptx import MOST_STAGES
from membound.kernels.models import MODELS, Model
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.cuda_compile

SMALL = Model("small", 64, 1, 2, 1, 32, 64, 65)
ODD = Model("odd", 64, 1, 2, 1, 32, 64, 65, qkv_bias=True, qk_norm=True, gated=False)
"""Biases, norms of heads, and an activation without a gate."""
STEP_LIMIT = 0.05
"""Relative error of a step's logits: its tolerance is one of whole models, this one has a layer."""

PRODUCTS = [
    ("n=37,k=128,m=1,weight=f32", 2),
    ("n=19,k=320,m=6,weight=f32", 2),
    ("n=37,k=600,m=1,weight=bf16", 2),
    ("n=16,k=1024,m=4,weight=bf16", 132),
    ("n=17,k=320,m=3,weight=f16", 2),
    ("n=37,k=128,m=5,weight=bf16", 2),
    ("n=16,k=576,m=9,weight=bf16", 132),
    ("n=20,k=192,m=8,weight=f16", 2),
    ("n=37,k=128,m=1,weight=int8", 2),
    ("n=16,k=640,m=17,weight=int8", 132),
    ("n=37,k=128,m=1,weight=int4g32", 2),
    ("n=20,k=256,m=1,weight=int4g128", 2),
    ("n=16,k=512,m=9,weight=int4g128", 132),
]
ATTENTION = [
    "context=40,q_heads=4,kv_heads=2,head_dim=32,kv=bf16",
    "context=75,q_heads=4,kv_heads=1,head_dim=128,kv=bf16,page=16",
    "context=40,q_heads=12,kv_heads=1,head_dim=64,kv=f16",
    "context=140,q_heads=2,kv_heads=2,head_dim=32,kv=int8",
    "context=37,q_heads=3,kv_heads=1,head_dim=128,kv=int8,page=16",
    "context=37,q_heads=20,kv_heads=1,head_dim=64,kv=fp8,page=32",
]
LATENT = [
    "context=40,q_heads=3,kv=bf16",
    "context=70,q_heads=16,kv=bf16,page=16",
    "context=33,q_heads=9,kv=f16",
    "context=40,q_heads=3,kv=int8,page=16",
    "context=17,q_heads=20,kv=fp8",
]
STEPS = [
    *("small,weight=bf16,kv=int8", "odd,weight=bf16,kv=bf16"),  # norms and activations go with the products
    *("small,weight=int8,kv=bf16", "odd,weight=int4g32,kv=fp8"),
]


SPECS = [
    *((f"linear:{shape}", multiprocessors) for shape, multiprocessors in PRODUCTS),
    *((f"attention:{shape}", 2) for shape in ATTENTION),
    *((f"mla:{shape}", 1) for shape in LATENT),
    *((f"step:context=17,model={options}", 2) for options in STEPS),
]
"""All of them with the multiprocessors that they are planned for."""


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (SMALL, ODD):
        monkeypatch.setitem(MODELS, model.name, model)


def run(spec: str, gpu: PtxGpu, monkeypatch: pytest.MonkeyPatch, fmas: int | None = None) -> float:
    """The relative error of a work's output on that GPU."""
    monkeypatch.setattr(driver, "open_gpu", lambda ordinal=0: gpu)
    work = parse(spec)
    inputs = make_inputs(work, 5, slots=1)
    backend = NumbaCuda()
    backend.open("cuda", 2)
    assert backend.supports(work) is None
    if fmas is not None:
        backend.add_arithmetic(work, fmas)
    backend.prepare(work, inputs)  # runs it once
    output = backend.output()
    assert isinstance(output, np.ndarray)
    return relative_error(output, compute(inputs, 0))


def check(
    spec: str,
    monkeypatch: pytest.MonkeyPatch,
    multiprocessors: int = 2,
    fmas: int | None = None,
    limit: float | None = None,
) -> None:
    for gpu in (PtxGpu(multiprocessors, LATE, races=True), PtxGpu(multiprocessors, EARLY)):
        error = run(spec, gpu, monkeypatch, fmas)
        assert error < (limit or tolerance(parse(spec))), (gpu.mode, gpu.launched)


@pytest.mark.parametrize(
    ("shape", "multiprocessors"),
    PRODUCTS,
)
def test_products(shape: str, multiprocessors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of multiprocessors decides how many warps share the columns of W, and how long rings are."""
    check(f"linear:{shape}", monkeypatch, multiprocessors)


@pytest.mark.parametrize(
    "variant",
    [
        Tensor("int8", 3, 1, 1, MOST_STAGES, packed=True),
        Tensor("int4g32", 3, 1, 1, MOST_STAGES, packed=True),
        Tensor("bf16", 3, 1, 2, 3, packed=True, row_tiles=2),
        Tensor("int4g32", 3, 1, 2, 3, packed=True, row_tiles=2),
        Tensor("int4g128", 3, 1, 2, 3, packed=True, row_tiles=2),
        Tensor("int4g32", 2, 1, 1, 2, packed=True, wide=True),
    ],
    ids=lambda variant: variant.name,
)
def test_products_of_large_plans(variant: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many stages as a wait can leave under way; two tiles of W a warp. More units of W than stages."""
    plan = Plan(variant.format, 16 * variant.row_tiles, 64 * (variant.stages + 5) // 128 * 128, 17, variant)
    monkeypatch.setattr(linear, "plan_linear", lambda *_: plan)
    check(f"linear:n={plan.n},k={plan.k},m={plan.m},weight={plan.format}", monkeypatch)


@pytest.mark.parametrize(
    "shape",
    ATTENTION,
)
def test_attention(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(f"attention:{shape}", monkeypatch)


@pytest.mark.parametrize(
    "shape",
    LATENT,
)
def test_latent_attention(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(f"mla:{shape}", monkeypatch, multiprocessors=1)


@pytest.mark.parametrize(
    "options",
    STEPS,
)
def test_steps(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(f"step:context=17,model={options}", monkeypatch, limit=STEP_LIMIT)


@pytest.mark.parametrize(
    "spec",
    [
        "linear:n=19,k=96,weight=f32",
        "linear:n=16,k=64,weight=f16",
        "attention:q_heads=4,kv_heads=2,head_dim=32,context=37,kv=bf16",
    ],
)
def test_extra_arithmetic(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(spec, monkeypatch, fmas=3)


@pytest.mark.parametrize("unroll", stream.UNROLLS)
def test_streams(unroll: int) -> None:
    gpu = PtxGpu(races=True)
    rng = np.random.default_rng(unroll)
    size = 16 * (2 * stream.THREADS * unroll + 77)
    values = rng.random(size // 4, np.float32)
    b, c, a = gpu.array(values), gpu.array(values[::-1].copy()), gpu.zeros(size // 4, np.float32)
    stream.bind_copy(gpu, b, a, size, unroll).start()
    np.testing.assert_array_equal(a.read(), values)
    stream.bind_triad(gpu, b, c, a, 0.5, size, unroll).start()
    np.testing.assert_allclose(a.read(), values + np.float32(0.5) * values[::-1], rtol=2e-7)
    sums = gpu.zeros(stream.read_sums(1), np.uint32)
    stream.bind_read(gpu, b, sums, size, unroll, blocks=1).start()
    assert np.bitwise_xor.reduce(sums.read()) == np.bitwise_xor.reduce(values.view(np.uint32))


@pytest.mark.parametrize("fmt", ["bf16", "f16"])
def test_the_peak_of_tensor_cores(fmt: str) -> None:
    gpu = PtxGpu(races=True)
    sums = gpu.zeros(4 * tile_peak.THREADS, np.float32)
    tile_peak.bind_tiles(gpu, fmt, gpu.array(tile_peak.tile_operands(fmt)), sums, 1, 3).start()
    np.testing.assert_array_equal(sums.read(), tile_peak.tile_sums(1, 3))


def test_the_peak_of_multiply_adds() -> None:
    gpu = PtxGpu(races=True)
    sums = gpu.zeros(chains.THREADS, np.float32)
    chains.bind_fma(gpu, gpu.array(chains.constants(3)), sums, 1).start()
    np.testing.assert_array_equal(sums.read(), chains.fma_sums(1, 3))


@pytest.mark.parametrize("trade", co_runner.TRADES)
def test_a_co_runner_ends_by_itself(trade: str) -> None:
    """Nobody writes the word to end; the clock of the executor passes the limit after a few chunks."""
    gpu, threads, chunk = PtxGpu(), 64, 16 * 64 * co_runner.UNROLL
    kernel = co_runner.co_runner_kernel(trade, threads)
    words = gpu.shared(co_runner.FIRST + 2 * 2)
    source = gpu.array(np.random.default_rng(1).integers(0, 1 << 32, chunk, np.uint32))
    sums, numbers = gpu.zeros(2 * threads, np.uint32), gpu.array(chains.constants(1))
    limit_us = 3
    gpu.bind(kernel, 2, (words, source, sums, numbers, 4 * chunk // 16, chunk // 16, limit_us)).start()
    assert words.values[co_runner.FIRST :].tolist() == [limit_us, limit_us, 1, 1]


FAMILIES = {
    "dot_kernel": "dot",
    "tensor_kernel": "tensor",
    "round_kernel": "round",
    "attention_kernel": "attention",
    "combine_kernel": "combine",
    "latent_kernel": "latent",
    "append_kernel": "append",
    "norm_kernel": "rms",
    "activation_kernel": "silu",
}
"""What the kernels of works are called, by their factories; those of instruments have a test each."""
INSTRUMENTS = {"copy_kernel", "triad_kernel", "read_kernel", "fma_kernel", "tile_kernel", "co_runner_kernel"}


def test_no_kernel_is_left_out() -> None:
    """Every factory of a kernel is known here, and the works above run it."""
    folder = Path(catalogue.__file__).parent
    modules = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
    factories = {
        name
        for parts in modules
        for name, made in vars(importlib.import_module(".".join(("membound.kernels.cuda", *parts)))).items()
        if hasattr(made, "cache_info") and inspect.signature(made).return_annotation == "Kernel"
    }
    assert factories == set(FAMILIES) | INSTRUMENTS
    kernels = [kernel.name for spec, n in SPECS for kernel in catalogue.kernels_of(parse(spec), n)]
    assert {name.partition("_")[0] for name in kernels} >= set(FAMILIES.values())
