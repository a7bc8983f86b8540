"""Ceilings: measured on a small memory, checked before they are timed, with what a reader needs to judge them."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pytest

from membound.backends.api import Accelerator, Backend, Device
from membound.bench.ceilings import backend as of_backend
from membound.bench.ceilings import cpu as ceilings
from membound.bench.ceilings import patterns, rotating
from membound.bench.ceilings.ceiling import Ceiling
from membound.bench.ceilings.patterns import CeilingError, Pattern
from membound.bench.measure import turns
from membound.bench.measure.turns import Turn
from membound.errors import Unsupported
from membound.kernels import reference
from membound.kernels.cpu.instruments import stream
from membound.kernels.cpu.simd.amx import AMX_BF16, AMX_INT8
from membound.kernels.cpu.simd.features import BF16_DOT
from membound.kernels.inputs import Inputs
from membound.kernels.work import Linear, Work, parse

LEVELS = {"l1_bytes": 64 << 10, "l2_bytes": 256 << 10, "l3_bytes": 4 << 20}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with small caches, so that a few MiB rotate."""
    monkeypatch.setattr(rotating, "last_level_cache_bytes", lambda: 4 << 20)
    monkeypatch.setattr(ceilings, "fingerprint", lambda: LEVELS)
    monkeypatch.setattr(ceilings.psutil, "cpu_count", lambda logical: 2)
    monkeypatch.setattr(rotating, "BYTES_PER_THREAD", 1 << 20)
    monkeypatch.setattr(ceilings, "ATTEMPTS", 1)
    monkeypatch.setattr(ceilings, "PAUSE_S", 0.0)
    monkeypatch.setattr(turns, "WARM_S", 0.0)
    # of twenty kernels that read, each of which is compiled for seconds, four
    monkeypatch.setattr(stream, "STREAMS", (1, 8))
    monkeypatch.setattr(stream, "PREFETCH_FLOATS", stream.PREFETCH_FLOATS[:1])
    monkeypatch.setattr(patterns, "FMA_ITERATIONS", 1000)
    monkeypatch.setattr(patterns, "DOT_REPEATS", 20)
    monkeypatch.setattr(patterns, "TILE_REPEATS", 50)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_every_ceiling_is_measured_and_described() -> None:
    told: list[str] = []
    found = {c.name: c for c in ceilings.measure_ceilings(2, quick=True, tell=told.append)}
    assert list(found) == [
        *("read", "copy", "triad", "read_l1", "read_l2", "read_l3", "fma_f32", "dot_int8"),
        *(
            name
            for name, has in (("dot_bf16", BF16_DOT), ("tile_int8", AMX_INT8), ("tile_bf16", AMX_BF16))
            if has
        ),
    ]
    assert told[0] == "writing the memory to read"
    assert "read, 2 threads" in told
    for name, ceiling in found.items():
        assert ceiling.status == "ok"
        assert ceiling.unit == ("FLOP/s" if name.startswith(("fma", "dot", "tile")) else "bytes/s")
        assert ceiling.value is not None
        assert 1e6 < ceiling.value < 1e15
        assert all(seconds > 0 for seconds in ceiling.samples)
        assert ceiling.config["threads"] in (1, 2)
        assert {"variant", "clean_samples"} <= set(ceiling.config)
    assert {found[n].config["arrays"] for n in ("read", "copy", "triad")} == {1, 2, 3}
    for name in ("read", "copy", "triad"):
        assert 15 << 20 < found[name].config["rotation_bytes"] <= 16 << 20
    assert 0 < found["read_l1"].config["array_bytes"] <= LEVELS["l1_bytes"] // 2
    assert found["read_l2"].config["array_bytes"] <= LEVELS["l2_bytes"] // 2
    assert LEVELS["l2_bytes"] < found["read_l3"].config["array_bytes"] <= LEVELS["l3_bytes"] // 2


@pytest.mark.usefixtures("small")
def test_levels_that_are_not_described_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "fingerprint", lambda: dict.fromkeys(LEVELS))
    assert list(ceilings._levels(2)) == []
    monkeypatch.setattr(ceilings, "fingerprint", lambda: LEVELS | {"l3_bytes": 512 << 10})
    assert [name for name, *_ in ceilings._levels(2)] == ["l1", "l2"]


@pytest.mark.parametrize(
    ("threads", "counts"), [(1, [1]), (2, [2, 1]), (3, [3, 2, 1]), (8, [8, 4, 2, 1]), (12, [12, 8, 4, 2, 1])]
)
def test_thread_counts_go_down_in_powers_of_two(threads: int, counts: list[int]) -> None:
    assert ceilings._thread_counts(threads) == counts


@pytest.mark.parametrize(
    ("mebibytes", "threads", "window"),
    [(1536, 2, 128), (1536, 1, 128), (8192, 2, 256), (192, 2, 48), (64 * 192, 64, 3072)],
)
def test_a_window_takes_milliseconds_and_comes_again_after_all_others(
    mebibytes: int, threads: int, window: int
) -> None:
    values = np.empty(mebibytes << 18, np.float32)  # never touched
    for arrays in (1, 2, 3):
        assert patterns.window_bytes(values, threads, arrays) == (window << 20) // arrays


def test_patterns_that_turn_out_faster_win(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"slow": 2.0, "fast": 0.5, "middle": 1.0, "late": 0.25}
    calls: list[int] = []

    def turn(call: Any, _: Any, attempts: int, pause_s: float) -> Turn:
        call()
        name = call.__defaults__[0].config["variant"]
        return Turn(speeds[name], 0.0)

    monkeypatch.setattr(ceilings, "take_turn", turn)

    def pattern(name: str) -> Pattern:
        return Pattern(10.0, {"variant": name, "threads": 1}, calls.append, lambda: None)

    groups = [[pattern("slow"), pattern("fast")], [pattern("middle")], [pattern("late")]]
    best = ceilings._best("read", groups, 0.0, lambda _: None)
    assert (best.value, best.config["variant"]) == (40.0, "late")
    assert best.samples == (0.25,) * 4
    assert len(groups[1][0].turns) == 1
    windows = iter(calls)
    assert [next(windows) for _ in range(3)] == [patterns.WINDOWS // 2 + i for i in range(3)]


@pytest.mark.parametrize("kernel", ["read", "copy", "triad", "fma", "dot"])
def test_a_kernel_with_a_wrong_result_gives_no_ceiling(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = stream.allocate(1 << 20, 2)
    group = {
        "read": lambda: patterns.read_patterns(values, 2, (4,)),
        "copy": lambda: patterns.copy_patterns(values, 2),
        "triad": lambda: patterns.triad_patterns(values, 2),
        "fma": lambda: [patterns.fma_pattern(2)],
        "dot": lambda: patterns.dot_patterns("int8", 2),
    }[kernel]()
    group[0].check()
    right = getattr(stream, kernel)

    def wrong(*args: Any) -> Any:
        if kernel in ("copy", "triad"):
            return right(args[0], args[1], 1, *args[3:])  # another window
        return right(*args) + 1

    if kernel in ("copy", "triad"):
        values[next(group[1].call.args[1].slices(0, 0))] += 1  # type: ignore[attr-defined]
    monkeypatch.setattr(stream, kernel, wrong)
    with pytest.raises(CeilingError, match=f"the {'int8 ' * (kernel == 'dot')}{kernel} kernel"):
        group[0].check()


class Half(Backend):
    """Multiplies in float32 and bfloat16 only, the latter wrongly; finds out late that float16 is too much."""

    prepared: Linear
    late = "f16"

    def open(self, device: str, threads: int) -> Device:
        return Device("half:cpu", "half", threads)

    def supports(self, work: Work) -> str | None:
        if isinstance(work, Linear) and work.weight in ("f32", "bf16", "f16"):
            return None
        return "floats only"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        assert isinstance(work, Linear)
        if work.weight == self.late:
            raise Unsupported("no f16 after all")
        self.prepared = work
        y = reference.compute(inputs, 0).astype(np.float32)
        self.y = y + 1 if work.weight == "bf16" else y

    def launch(self, slot: int) -> None:
        assert slot == 0

    def sync(self) -> None:
        pass

    def output(self) -> Any:
        return self.y


def test_a_backend_has_its_launch_overhead_and_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_backend, "GEMM_SIZES", (32, 64))
    monkeypatch.setattr(of_backend, "GEMM_SECONDS", 0.0)
    backend = Half()
    device = backend.open("cpu", 2)
    found = {c.name: c for c in of_backend.measure_backend_ceilings(backend, device, lambda _: None)}
    assert list(found) == ["launch", "gemm_f32", "gemm_bf16", "gemm_f16"]
    named = of_backend.measure_backend_ceilings(backend, device, lambda _: None, formats=["int8", "bf16"])
    assert [c.name for c in named] == ["launch", "gemm_bf16"]
    launch, f32, bf16, f16 = found.values()
    assert launch.unit == "s"
    assert launch.value == median(launch.samples)
    assert launch.config == {
        "backend": "half:cpu",
        "threads": 2,
        "work": "linear:n=32,k=128,m=1,weight=f32,act=float",
    }
    assert f32.status == "ok"
    assert f32.value is not None
    assert f32.value * median(f32.samples) in (pytest.approx(2 * 32**3), pytest.approx(2 * 64**3))
    assert (bf16.status, bf16.value) == ("wrong", None)
    assert (f16.status, f16.value, f16.reason) == ("unsupported", None, "no f16 after all")


def test_quick_backend_ceilings_take_the_small_product_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_backend, "GEMM_SIZES", (16, 64))
    monkeypatch.setattr(of_backend, "GEMM_SECONDS", 0.0)
    backend = Half()
    found = of_backend.measure_backend_ceilings(
        backend, Device("half:cpu", "half", 1), lambda _: None, quick=True
    )
    f32 = next(c for c in found if c.name == "gemm_f32")
    assert f32.config["work"] == "linear:n=16,k=16,m=16,weight=f32,act=float"


class Broken(Half):
    """Raises what runtimes raise, for some formats."""

    def supports(self, work: Work) -> str | None:
        return None if isinstance(work, Linear) else "products only"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        assert isinstance(work, Linear)
        if work.weight == "bf16":
            raise RuntimeError("CUDA out of memory. Tried to allocate 8 GiB\nsecond line")
        if work.weight == "int8" and work.n == 64:
            raise RuntimeError("no such size")
        super().prepare(work, inputs)


def test_what_fails_has_a_reason_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_backend, "GEMM_SIZES", (32, 64))
    monkeypatch.setattr(of_backend, "GEMM_SECONDS", 0.0)
    backend = Broken()
    found = {c.name: c for c in of_backend.measure_backend_ceilings(backend, backend.open("cpu", 2), print)}
    assert {name: (c.status, c.reason) for name, c in found.items()} == {
        "launch": ("ok", ""),
        "gemm_f32": ("ok", ""),
        "gemm_bf16": ("oom", "RuntimeError: CUDA out of memory. Tried to allocate 8 GiB"),
        "gemm_f16": ("unsupported", "no f16 after all"),
        "gemm_int8": ("ok", ""),
    }
    assert found["gemm_int8"].config["work"] == "linear:n=32,k=32,m=32,weight=int8,act=int8"


def test_a_wrong_product_of_any_size_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right one of another size must not hide it."""
    monkeypatch.setattr(of_backend, "GEMM_SIZES", (32, 64))
    monkeypatch.setattr(of_backend, "GEMM_SECONDS", 0.0)

    class SmallWrong(Half):
        def output(self) -> Any:
            return self.y + (self.prepared.n == 32)

    found = {
        c.name: c for c in of_backend.measure_backend_ceilings(SmallWrong(), Device("x:cpu", "x", 1), print)
    }
    assert (found["gemm_f32"].status, found["gemm_f32"].value) == ("wrong", None)


def test_a_failing_launch_leaves_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_backend, "GEMM_SIZES", (32,))
    monkeypatch.setattr(of_backend, "GEMM_SECONDS", 0.0)

    class Weak(Half):
        def launch(self, slot: int) -> None:
            if self.prepared.m == 1:
                raise RuntimeError("one row is too few")

    found = {c.name: c for c in of_backend.measure_backend_ceilings(Weak(), Device("x:cpu", "x", 1), print)}
    assert (found["launch"].status, found["launch"].reason) == ("error", "RuntimeError: one row is too few")
    assert found["gemm_f32"].status == "ok"


class OfHalves(Half):
    """Leaves the first of the null works to others."""

    def supports(self, work: Work) -> str | None:
        return None if isinstance(work, Linear) and work.weight == "f16" else "halves only"


class AttentionOnly(Half):
    """Has none of their products."""

    def supports(self, work: Work) -> str | None:
        return "no products" if isinstance(work, Linear) else None

    def prepare(self, work: Work, inputs: Inputs) -> None:
        assert work.spec.startswith("attention:context=16,")


@pytest.mark.parametrize(
    ("backend", "id", "found"),
    [
        (Half(), "x:gpu:0", {"launch": 32, "gemm_f32": 48, "gemm_bf16": 48, "gemm_f16": 48}),
        (Half(), "x:gpu:0+graph", {"launch": 32}),
        (OfHalves(), "x:gpu:0", {"gemm_f16": 48}),
    ],
    ids=["plain", "variant", "none-of-them"],
)
def test_on_an_accelerator_launches_stay_small_and_products_are_larger(
    backend: Half, id: str, found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_backend, "GEMM_SIZES", (16,))
    monkeypatch.setattr(of_backend, "DEVICE_GEMM_SIZES", (48,))
    monkeypatch.setattr(of_backend, "GEMM_SECONDS", 0.0)
    device = Device(id, "x", 1, accelerator=Accelerator(1 << 30, 1 << 20))
    ceilings = list(of_backend.measure_backend_ceilings(backend, device, lambda _: None))
    assert [c.name for c in ceilings] == list(found)
    for ceiling in ceilings:
        work = parse(ceiling.config["work"])
        assert isinstance(work, Linear)
        assert (work.n, ceiling.config["backend"]) == (found[ceiling.name], id)


def test_the_first_null_work_that_is_supported_is_launched() -> None:
    device = Device("x:gpu:0", "x", 1)
    (launch,) = of_backend.measure_backend_ceilings(AttentionOnly(), device, lambda _: None)
    assert (launch.name, launch.status, len(launch.samples)) == ("launch", "ok", of_backend.NULL_SAMPLES)
    assert launch.config["work"].startswith("attention:context=16,")


# As they are told


def told(**values: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"name": "read", "value": 1e9, "unit": "bytes/s", "samples": (0.1,), "config": {}}
    return Ceiling(**(base | values)).as_told()


def test_a_ceiling_is_told_in_plain_values() -> None:
    assert told(value=np.float64(2e9), config={"array_bytes": np.int64(5), "variant": "x"}) == {
        **{"name": "read", "value": 2e9, "unit": "bytes/s", "samples": [0.1]},
        **{"config": {"array_bytes": 5, "variant": "x"}, "status": "ok", "reason": ""},
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"value": float("nan")}, "value='nan' is not a number from 0, nor null"),
        ({"value": -1.0}, "value=-1.0 is not a number from 0"),
        ({"value": 0.0}, "a ceiling that is ok has the value 0.0"),
        ({"value": None}, "a ceiling that is ok has the value None"),
        ({"unit": None}, "unit=None is not text"),
        ({"samples": (0.1, 0.0)}, "samples_s holds a time of 0 s"),
        ({"samples": (float("inf"),)}, "samples_s="),
        ({"config": {"threads": "many"}}, "threads='many' of config is not a number"),
        ({"config": {"work": 5}}, "work=5 of config is not text"),
        ({"config": []}, "config=[] is not an object"),
        ({"status": "odd"}, "status 'odd' is none of"),
    ],
    ids=str,
)
def test_one_that_no_row_could_hold_is_an_error_that_says_why(values: dict[str, Any], says: str) -> None:
    found = told(**values)
    assert (found["name"], found["status"], found["value"], found["samples"]) == ("read", "error", None, [])
    assert says in found["reason"]
