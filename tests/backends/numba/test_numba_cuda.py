"""`numba:cuda` from open to output on a simulated GPU, held against the reference; and every refusal."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from membound.backends.api import Accelerator
from membound.backends.numba import gpu_limits as cuda_limits
from membound.backends.numba.gpu import CO_RUNNER_CACHES, MOST_ROWS, NumbaCuda
from membound.bench.ceilings import device as device_ceilings
from membound.bench.ceilings.device import measure_device_ceilings
from membound.bench.ceilings.in_turn import timed_queue
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.cuda.device import driver
from membound.kernels.cuda.device.gpu import GpuError
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.instruments import tile_peak
from membound.kernels.cuda.instruments.co_runner import GpuCoRunner
from membound.kernels.models import MODELS, Model
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

RNG = np.random.default_rng()


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every GPU is a simulated one."""
    monkeypatch.setattr(driver, "open_gpu", lambda ordinal: SimulatedGpu())


def check(device: str, spec: str, limit: float | None = None, fmas: int | None = None) -> NumbaCuda:
    """Every input set, the first one twice; with `fmas` extra multiply-adds an element, if they are asked for."""
    work = parse(spec)
    inputs = make_inputs(work, int(RNG.integers(1 << 30)), slots=2)
    backend = NumbaCuda()
    backend.open(device, 2)
    assert backend.supports(work) is None
    if fmas is not None:
        backend.add_arithmetic(work, fmas)
    backend.prepare(work, inputs)
    expected = [compute(inputs, slot) for slot in range(inputs.slots)]
    for slot in (*range(inputs.slots), 0):
        backend.launch(slot)
        backend.sync()
        y = backend.output()
        assert y.dtype == np.float32
        assert relative_error(y, expected[slot]) < (limit or tolerance(work)), slot
    return backend


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    "shape",
    [
        "context=37,kv=int8,page=16",
        *(
            pytest.param(shape, marks=pytest.mark.slow)
            for shape in ("context=19,kv=bf16", "context=17,kv=fp8,page=16", "context=40,kv=f16")
        ),
    ],
)
def test_attention_matches_the_reference(shape: str) -> None:
    check("cuda", f"attention:q_heads=4,kv_heads=2,head_dim=32,{shape}")


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    "shape",
    [
        "n=37,k=96,m=1,weight=bf16",
        "n=21,k=64,m=1,weight=int4g32",
        *(
            pytest.param(shape, marks=pytest.mark.slow)
            for shape in (
                "n=19,k=64,m=2,weight=f32",
                "n=24,k=64,m=9,weight=int8",
                "n=16,k=128,m=3,weight=int4g128",
                "n=33,k=48,m=5,weight=f16",
            )
        ),
    ],
)
def test_linear_matches_the_reference(shape: str) -> None:
    check("cuda", f"linear:{shape}")


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    "spec",
    [
        "linear:n=16,k=64,weight=bf16",
        pytest.param("linear:n=19,k=96,weight=f32", marks=pytest.mark.slow),
        pytest.param("attention:q_heads=4,kv_heads=2,head_dim=32,context=37,kv=bf16", marks=pytest.mark.slow),
    ],
)
def test_extra_arithmetic_leaves_the_output_as_it_is(spec: str) -> None:
    backend = check("cuda", spec, fmas=3)
    assert backend._extra_fmas is None  # a dose is for one preparation only


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("attention:context=9,kv=f32", "the tensor cores that attention runs on do not take f32"),
        ("attention:context=9,kv=int8", "extra arithmetic goes with a cache in bf16, f16"),
        ("attention:context=9,q_heads=34,kv_heads=2", "up to 16 query heads"),
        ("linear:n=8,k=32,m=2,weight=f32", "extra arithmetic goes with one row"),
        ("linear:n=8,k=32,weight=int8", "weights in f32, bf16, f16"),
        ("step:model=tiny", "single operations"),
    ],
)
def test_extra_arithmetic_is_refused_with_a_reason(spec: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        NumbaCuda().add_arithmetic(parse(spec), 1)


@pytest.mark.usefixtures("simulated")
def test_stored_bytes_tell_of_padding() -> None:
    """A matrix of one row is stored as whole tiles of rows; a large one has none worth telling."""
    backend = check("cuda", "linear:n=1,k=64,m=5,weight=bf16")
    assert (backend.stored_bytes() or 0) >= 8 * 64 * 2
    assert check("cuda", "linear:n=64,k=64,weight=bf16").stored_bytes() is None


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_settings_count_the_kernels_of_a_launch() -> None:
    """As many in a graph as without; of long attention a second one that combines the parts."""
    spec = "attention:q_heads=4,kv_heads=2,head_dim=32,context=37,kv=bf16"
    plain, graph = check("cuda", spec).settings(), check("cuda:0+graph", spec).settings()
    assert plain["kernel_launches"] == graph["graph_nodes"] >= 1
    assert set(plain) | set(graph) == {"kernel_launches", "graph_nodes"}
    assert check("cuda", "linear:n=64,k=64,weight=bf16").settings() == {"kernel_launches": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_a_step_matches_the_reference() -> None:
    model = Model("small", 64, 1, 2, 1, 32, 64, 65)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, model.name, model)
        backend = check("cuda+graph", "step:model=small,context=17,weight=bf16,kv=bf16", limit=0.05)
        assert [len(launches) for launches in backend._launches] == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_limits_are_right_and_become_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_limits, "QUICK_ARRAY_BYTES", 4096 + 256)
    monkeypatch.setattr(cuda_limits, "CACHE_PASSES", 3)
    monkeypatch.setattr(device_ceilings, "FIRST_WARMUP_S", 0.0)
    monkeypatch.setattr(cuda_limits, "UNROLLS", (4,))
    monkeypatch.setattr(cuda_limits, "BLOCKS_PER_MULTIPROCESSOR", 1)
    monkeypatch.setattr(cuda_limits, "FMA_DOSE", 1)
    monkeypatch.setattr(cuda_limits, "TILE_ROUNDS", 1)
    monkeypatch.setattr(tile_peak, "BLOCKS_PER_MULTIPROCESSOR", 1)
    monkeypatch.setattr(device_ceilings, "QUICK_SAMPLES", 1)
    backend = NumbaCuda()
    opened = backend.open("cuda:0", 2)
    backend._gpu.cache_bytes, backend._gpu.multiprocessors = 1024, 1
    found = {c.name: c for c in measure_device_ceilings(backend, opened, True, lambda _: None)}
    arithmetic = [found.pop(name) for name in ("fma_f32", "tile_bf16", "tile_f16")]
    assert {(one.status, one.unit) for one in arithmetic} == {("ok", "FLOP/s")}
    assert {name: (c.status, c.config["array_bytes"], c.config["arrays"]) for name, c in found.items()} == {
        "read": ("ok", 8192, 1),  # eight times the cache
        "copy": ("ok", 8192, 2),
        "triad": ("ok", 8192, 3),
        "read_l2": ("ok", 512, 1),
    }
    assert found["read_l2"].config["repeats"] == 3
    backend.open("cuda:0+graph", 2)
    assert list(backend.limits(quick=True)) == []


@pytest.mark.usefixtures("simulated")
def test_a_launch_of_the_cache_reads_it_many_times() -> None:
    """So that starting it does not count: 25 MB take an H100 about 5 µs, a launch 2 µs."""
    assert cuda_limits.CACHE_PASSES > 30
    assert cuda_limits.CACHE_PASSES % 2, "the exclusive or of an even number of passes is zero"
    gpu = SimulatedGpu()
    gpu.cache_bytes = 512
    host = cuda_limits._values(128)
    one = cuda_limits._read(gpu, "read_l2", gpu.array(host), host, 256, 2, passes=3)
    one.launch(0)
    assert one.check()
    assert (one.amount, one.config["repeats"]) == (3 * 256, 3)


@pytest.mark.usefixtures("simulated")
def test_arrays_are_eight_caches_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 126 MB of a B200, 256 MB would be twice as much: a good part of a read would never leave the cache."""
    gpu = SimulatedGpu()
    gpu.memory_bytes, gpu.cache_bytes = 180 << 30, 126 << 20
    asked: list[int] = []

    def stop(count: int) -> None:
        asked.append(4 * count)
        raise StopIteration

    monkeypatch.setattr(cuda_limits, "_values", stop)
    for quick in (True, False):
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(cuda_limits.limits(gpu, quick))
    assert asked == [8 * (126 << 20), 1 << 30]


@pytest.mark.usefixtures("simulated")
def test_a_gpu_refuses_what_its_instructions_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    work = parse("attention:context=16,kv=fp8")
    backend = NumbaCuda()
    assert backend.supports(work) is None  # nothing is opened: what the kernels can do at all
    for target, reason in (
        ("8.6", "fp8 caches need compute capability 8.9 or newer, not 8.6"),
        ("8.9", None),
    ):
        backend.open("cuda", 2)
        backend._gpu.target = target
        assert backend.supports(work) == reason
        assert backend.supports(parse("step:model=tiny,kv=fp8,weight=bf16")) == reason
        assert backend.supports(parse("linear:n=8,k=64,weight=int4g32")) is None


@pytest.mark.usefixtures("simulated")
def test_a_wrong_sum_or_copy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_limits, "QUICK_ARRAY_BYTES", 512)
    monkeypatch.setattr(cuda_limits, "UNROLLS", (2,))
    monkeypatch.setattr(cuda_limits, "FMA_DOSE", 1)
    monkeypatch.setattr(cuda_limits, "TILE_ROUNDS", 1)
    backend = NumbaCuda()
    backend.open("cuda:0", 2)
    for limit in backend.limits(quick=True):
        assert not limit.check(), f"{limit.name} before it was launched"


def test_a_co_runner_has_a_stream_of_its_own_and_streams_more_than_the_cache_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[int, SimulatedGpu]] = []

    def open_gpu(ordinal: int) -> SimulatedGpu:
        opened.append((ordinal, SimulatedGpu()))
        opened[-1][1].cache_bytes = 3 << 20
        return opened[-1][1]

    monkeypatch.setattr(driver, "open_gpu", open_gpu)
    backend = NumbaCuda()
    backend.open("cuda:1+graph", 2)
    one = backend.co_runner()
    assert isinstance(one, GpuCoRunner)
    assert [ordinal for ordinal, _ in opened] == [1, 1]
    assert one._gpu is opened[1][1] is not backend._gpu
    one._allocate()
    assert one._source.size_bytes == CO_RUNNER_CACHES * (3 << 20)


@pytest.mark.usefixtures("simulated")
def test_a_captured_launch_gives_the_same() -> None:
    backend = check("cuda:0+graph", "attention:q_heads=2,kv_heads=1,head_dim=32,context=33")
    assert [len(launches) for launches in backend._launches] == [1, 1]


@pytest.mark.usefixtures("simulated")
def test_the_device_and_its_clock() -> None:
    backend = NumbaCuda()
    opened = backend.open("cuda:0", 2)
    assert (opened.id, opened.name) == ("numba:cuda:0", "simulated GPU")
    assert opened.accelerator == Accelerator(0, 0, 2, "9.0a", "")
    assert {"numba-cuda", "numba"} <= set(opened.versions)
    work = parse("attention:q_heads=2,kv_heads=2,head_dim=32,context=16")
    backend.prepare(work, make_inputs(work, 1, slots=2))
    assert 0 < timed_queue(backend, lambda: backend.launch(1), 2) < 60
    backend.close()
    with pytest.raises(RuntimeError, match="output before prepare"):
        backend.output()


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("prefill:model=tiny", "prompts are not built from decode kernels"),
        ("attention:context=9,kv=f32", "the tensor cores that attention runs on do not take f32"),
        ("attention:context=9,head_dim=48", "attention kernels are made for heads of"),
        ("linear:n=8,k=32,weight=int8,act=int8", "the CUDA kernels have no int8 × int8 products"),
        (f"step:model=tiny,batch={MOST_ROWS + 1}", "the kernels take up to 64 rows, not 65"),
        (f"linear:n=8,k=32,m={MOST_ROWS + 1}", "the kernels take up to 64 rows, not 65"),
    ],
)
def test_what_there_is_no_kernel_for_has_a_reason(spec: str, reason: str) -> None:
    backend = NumbaCuda()
    backend.open("cuda", 1)
    assert (backend.supports(parse(spec)) or "").startswith(reason)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cuda:0+fast", "unknown variant 'fast'; known: graph"),
        ("cpu", "numba has no device 'cpu' here; GPUs are cuda:0"),
        ("cuda:x", "numba has no device 'cuda:x' here"),
    ],
)
def test_devices_that_make_no_sense_are_refused(device: str, reason: str) -> None:
    with pytest.raises(BackendUnavailable) as error:
        NumbaCuda().open(device, 1)
    assert error.value.reason.startswith(reason)


def test_without_a_driver_the_reason_and_the_remedy_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(*_: object) -> int:
        raise GpuError("no driver library")

    monkeypatch.setattr(driver, "count", no_driver)
    monkeypatch.setattr(driver, "open_gpu", no_driver)
    for ask in (NumbaCuda.devices, lambda: NumbaCuda().open("cuda:0", 1)):
        with pytest.raises(
            BackendUnavailable, match=r"^no NVIDIA GPU can be used: no driver library$"
        ) as error:
            ask()  # type: ignore[operator]
        assert "driver, 580" in error.value.remedy
    monkeypatch.setattr(driver, "count", lambda: 0)
    with pytest.raises(BackendUnavailable, match="finds no GPU"):
        NumbaCuda.devices()
    monkeypatch.setattr(driver, "count", lambda: 2)
    assert NumbaCuda.devices() == ["cuda:0", "cuda:0+graph", "cuda:1", "cuda:1+graph"]


def test_without_numbas_cuda_target_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "membound.kernels.cuda.device.driver")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailable, match="not installed") as error:
        NumbaCuda.devices()
    assert error.value.remedy == 'pip install "membound[cuda]"'


@pytest.mark.usefixtures("simulated")
def test_a_full_gpu_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SimulatedGpu, count: int, dtype: object) -> None:
        raise GpuError("CUDA_ERROR_OUT_OF_MEMORY")

    work = parse("attention:q_heads=2,kv_heads=2,head_dim=32,context=16")
    backend = NumbaCuda()
    backend.open("cuda", 1)
    monkeypatch.setattr(SimulatedGpu, "zeros", full)
    with pytest.raises(MemoryError, match="the GPU is out of memory"):
        backend.prepare(work, make_inputs(work, 1))
    with monkeypatch.context() as patch:
        patch.setattr(SimulatedGpu, "zeros", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backend.prepare(work, make_inputs(work, 1))
