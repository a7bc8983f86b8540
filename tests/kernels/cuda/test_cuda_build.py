"""`membound cuda-build` and the catalogue of kernels behind it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from membound.backends.numba.gpu import NumbaCuda
from membound.bench.ceilings.backend import NULL_WORKS
from membound.bench.cli import main
from membound.kernels.cuda.attention.plan import prepare_attention
from membound.kernels.cuda.catalogue import ceiling_kernels, kernels_of, loaded_kernels
from membound.kernels.cuda.compile import CompileError
from membound.kernels.cuda.device import cubins
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.matmul import linear
from membound.kernels.cuda.step.step import prepare_step
from membound.kernels.inputs import AttentionInputs, LinearInputs, ModelInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse


@pytest.fixture
def run(monkeypatch, capsys):
    """A command with a compiler that only names what it compiled; (exit status, standard output, error)."""

    def compile_cubin(kernel, target):
        if target.startswith("7"):
            raise CompileError(f"{target} is too old")
        return f"{kernel.name} {target}".encode()

    monkeypatch.setattr(cubins, "compile_cubin", compile_cubin)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["cuda-build", *map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return call


def test_the_kernels_of_a_work_are_built_with_those_of_the_ceilings(run, tmp_path):
    status, out, _ = run("linear:n=4096,k=4096,m=1,weight=bf16", "--out", tmp_path, "--json")
    assert status == 0
    names = {path.stem for path in tmp_path.glob("*.cubin")}
    launches = {
        k.name for spec in NULL_WORKS for k in kernels_of(parse(spec))
    }  # by which launching is measured
    assert "dot_f32_m1_w1_r1_c4_s12" in launches
    assert names == {k.name for k in ceiling_kernels()} | launches | {"dot_bf16_m1_w4_r1_c4_s3"}
    assert {str(tmp_path / "manifest.json"), str(tmp_path / "stream_copy_u4.cubin")} < set(json.loads(out))
    cubins.read.cache_clear()
    assert cubins.read(tmp_path, "9.0a")["stream_copy_u4"] == b"stream_copy_u4 9.0a"


def test_target_and_multiprocessors_decide_what_is_built(run, tmp_path):
    spec = "linear:n=4096,k=4096,m=1,weight=bf16"
    status, out, _ = run(spec, "--out", tmp_path, "--target", "8.0", "--multiprocessors", 8)
    assert status == 0
    assert "for compute capability 8.0" in out
    assert (tmp_path / "dot_bf16_m1_w4_r4_c1_s3.cubin").read_bytes() == b"dot_bf16_m1_w4_r4_c1_s3 8.0"


def test_the_suite_for_accelerators_is_built_by_default(run, tmp_path):
    assert run("--out", tmp_path)[0] == 0
    names = {path.stem for path in tmp_path.glob("*.cubin")}
    assert any(name.startswith("tensor_int4g128_") for name in names)
    assert any(name.startswith("append_bf16_d128") for name in names)
    assert any(name.endswith("_add") for name in names)


def test_the_kernels_of_the_claim_are_built_where_they_are_asked_for(run, tmp_path):
    """With those of the works that are named: a GPU runs them with extra arithmetic too."""
    named = (
        "linear:n=4096,k=4096,m=1,weight=bf16",
        "attention:context=64,q_heads=8,kv_heads=2,kv=f16,page=64",
    )
    assert run(*named, "--out", tmp_path, "--claim")[0] == 0
    names = {path.stem for path in tmp_path.glob("*.cubin")}
    loaded = {name for name in names if name.endswith("_loaded")}
    assert {name.partition("_m1")[0] for name in loaded} == {
        "dot_f32",
        "dot_bf16",
        "attention_bf16_d128_g1_p0_w4_loaded",
        "attention_f16_d128_g4_p64_w4_loaded",
    }
    assert {"attention_int8_d128_g4_p0_w4", "fma_f32", "tile_bf16", "combine_d128"} <= names
    assert {f"co_runner_{trade}_t1024" for trade in ("idle", "bandwidth", "fma")} <= names
    assert any(name.startswith("append_bf16_") for name in names)  # of the steps of experiment 7
    assert any(name.startswith("tensor_bf16_") for name in names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("linear:n=0,k=1",), "n=0"),
        (("linear:n=16,k=64,weight=int8,act=int8",), "has no CUDA kernels"),
        (("prefill:model=tiny",), "has no CUDA kernels"),
        (("--target", "7.5"), "too old"),
        (
            ("mla:context=9,kv=fp8", "--target", "8.6"),
            "fp8 caches need compute capability 8.9 or newer, not 8.6",
        ),
    ],
    ids=["spec", "arithmetic", "prompt", "target", "instructions"],
)
def test_bad_input_is_one_line_and_status_2(run, tmp_path, arguments, said):
    status, _, error = run(*arguments, "--out", tmp_path)
    assert status == 2
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


class RecordingGpu(SimulatedGpu):
    """Notes the kernels that are bound, and runs none."""

    def __init__(self, multiprocessors):
        super().__init__(multiprocessors)
        self.names: set[str] = set()

    def bind(self, kernel, grid, arguments):
        self.names.add(kernel.name)
        return super().bind(kernel, grid, arguments)


@pytest.mark.parametrize("m", [1, 6, 12])
@pytest.mark.parametrize("weight", ["bf16", "int4g32"])
def test_the_catalogue_has_what_a_product_binds(weight, m):
    work = parse(f"linear:n=48,k=128,m={m},weight={weight}")
    inputs = make_inputs(work, seed=1)
    assert isinstance(inputs, LinearInputs)
    gpu = RecordingGpu(3)
    plan = linear.plan_linear(weight, 48, 128, m, 3)
    scratch = gpu.zeros(max(4, plan.scratch_words), np.uint32)
    x, y = gpu.array(inputs.x), gpu.zeros(m * 48, np.float32)
    linear.bind_linear(gpu, plan, linear.upload(gpu, [inputs.weight(0)]), x, y, scratch)
    assert gpu.names == {kernel.name for kernel in kernels_of(work, 3)}


@pytest.mark.parametrize(
    "spec",
    [
        "attention:context=700,q_heads=4,kv_heads=2,head_dim=64,kv=bf16",
        "attention:context=700,q_heads=4,kv_heads=2,head_dim=64,kv=int8,page=16",
        "mla:context=700,q_heads=16,kv=fp8,page=64",
    ],
)
def test_the_catalogue_has_what_attention_binds(spec):
    work = parse(spec)
    gpu = RecordingGpu(8)
    inputs = make_inputs(work, seed=1)
    assert isinstance(inputs, AttentionInputs)
    prepare_attention(gpu, inputs)
    assert gpu.names == {kernel.name for kernel in kernels_of(work, 8)}
    assert len(gpu.names) == 2


@pytest.mark.parametrize(
    "options", ["", ",weight=int8,kv=int8,batch=5", ",weight=int4g32,kv=fp8,context=3000"]
)
def test_the_catalogue_has_what_a_step_binds(options):
    work = parse(f"step:model=tiny{options}")
    gpu = RecordingGpu(8)
    inputs = make_inputs(work, seed=1)
    assert isinstance(inputs, ModelInputs)
    prepare_step(gpu, inputs)
    names = {kernel.name for kernel in kernels_of(work, 8)}
    assert gpu.names <= names
    assert names - gpu.names <= {"combine_d32"}  # with many sequences there is nothing to combine


@pytest.mark.parametrize(
    "spec",
    [
        "linear:n=48,k=128,weight=f32",
        "linear:n=48,k=128,weight=bf16",
        "attention:context=700,q_heads=4,kv_heads=2,head_dim=64,kv=bf16",
    ],
)
def test_the_catalogue_has_what_extra_arithmetic_binds(spec, monkeypatch):
    work, gpu = parse(spec), RecordingGpu(8)
    monkeypatch.setattr("membound.kernels.cuda.device.driver.open_gpu", lambda ordinal: gpu)
    monkeypatch.setattr("membound.backends.numba.gpu._start", lambda launches: None)
    backend = NumbaCuda()
    backend.open("cuda", 1)
    backend.add_arithmetic(work, 3)
    backend.prepare(work, make_inputs(work, seed=1))
    assert gpu.names == {kernel.name for kernel in loaded_kernels(work, 8)}
    assert any(name.endswith("_loaded") for name in gpu.names)


def test_the_catalogue_has_nothing_for_what_cannot_run():
    for spec in ("attention:context=9,kv=f32", "mla:context=9,page=8", "step:model=tiny,kv=f32"):
        assert kernels_of(parse(spec), 8) == loaded_kernels(parse(spec), 8) == ()
