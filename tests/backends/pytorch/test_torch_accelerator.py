"""torch on accelerators as far as a CPU can show it: variants, kernels by name, graphs, offloading.

Where a device is needed the CPU passes for one, with events, streams and graphs that are faked.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_accelerator import FACTS, FakeEvent, FakeStream, install

from membound.backends.api import Accelerator
from membound.backends.pytorch import backend as pytorch
from membound.backends.pytorch import device as torch_device
from membound.backends.pytorch import linear as torch_linear
from membound.backends.pytorch import offload as torch_offload
from membound.backends.pytorch import variants as torch_variants
from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.variants import Variants
from membound.bench.ceilings.in_turn import timed_queue
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import Weight, dequantize
from membound.kernels.weights.generate import random_weight
from membound.kernels.work import parse


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def check(device: str, spec: str, seed: int = 3, limit: float | None = None) -> PyTorch:
    work = parse(spec)
    inputs = make_inputs(work, seed, slots=3)
    backend = PyTorch()
    backend.open(device, 2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for slot in (*range(inputs.slots), 0):
        backend.launch(slot)
        backend.sync()
        assert relative_error(backend.output(), compute(inputs, slot)) < (limit or tolerance(work))
    return backend


# Variants


def test_variants_are_read_from_a_device_name() -> None:
    assert Variants.parse([], on_cpu=True).plain
    assert Variants.parse(["graph", "flash"], on_cpu=False) == Variants("flash", graph=True)
    assert Variants.parse(["offload"], on_cpu=False).offload


@pytest.mark.parametrize(
    ("names", "on_cpu", "reason"),
    [
        (["graph"], True, "the variant graph is for accelerators"),
        (["offload"], True, "the variant offload is for accelerators"),
        (["offload", "graph"], False, r"offload\+graph do not go together"),
        (["flash", "math"], False, r"flash\+math do not go together"),
        (["graph", "graph"], False, "do not go together"),
        (
            ["fused"],
            False,
            "unknown variant 'fused'; known: compile, graph, offload, .*, cudnn, efficient, math",
        ),
    ],
)
def test_variants_that_make_no_sense_are_refused(names: list[str], on_cpu: bool, reason: str) -> None:
    with pytest.raises(BackendUnavailable, match=reason):
        Variants.parse(names, on_cpu)


def test_a_device_offers_its_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_variants, "compiler", lambda: "sh")
    assert torch_variants.offered("cpu") == ["cpu+compile"]
    names = ["graph", "offload", "compile", "compile+graph"]
    assert torch_variants.offered("npu:0") == [f"npu:0+{name}" for name in names]
    monkeypatch.setattr(torch_variants, "compiler", lambda: "no-such-compiler")
    assert torch_variants.offered("npu:0") == ["npu:0+graph", "npu:0+offload"]
    monkeypatch.setattr(pytorch, "accelerator_kind", lambda: "npu")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert PyTorch.devices()[:3] == ["cpu", "npu:0", "npu:1"]


# What a device is


def test_a_device_is_described_by_its_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        **{"total_memory": 80 << 30, "L2_cache_size": 50 << 20, "multi_processor_count": 132, "major": 9},
        **{"minor": 0, "pci_bus_id": 0xA4, "pci_domain_id": 1, "pci_device_id": 0},
    )
    module = SimpleNamespace(get_device_properties=lambda _: properties)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    assert torch_device.describe("x:0") == Accelerator(80 << 30, 50 << 20, 132, "9.0", "0001:a4:00.0")
    module.get_device_properties = lambda _: SimpleNamespace(total_memory=7)
    assert torch_device.describe("x:0") == Accelerator(7)


@pytest.mark.usefixtures("device")
def test_open_tells_the_accelerator_and_the_ceiling_of_its_bytes() -> None:
    opened = PyTorch().open("fake:0+graph", 2)
    assert (opened.name, opened.accelerator, opened.memory_ceiling) == ("a fake", FACTS, "read")
    assert PyTorch().open("fake:0+offload", 2).memory_ceiling == "host_to_device_pinned"


@pytest.mark.usefixtures("device")
def test_events_time_queued_launches() -> None:
    backend = check("fake:0", "linear:n=37,k=96,m=2,weight=bf16")
    start, end = backend.mark(), backend.mark()
    assert backend.elapsed_s(start, end) == 1e-3, "a tick is a millisecond"
    queued = timed_queue(backend, lambda: backend.launch(0), 3)
    assert queued == 1e-3 / 3, "two events around the whole queue"


def test_the_cpu_has_no_clock_of_its_own_and_no_limits() -> None:
    backend = PyTorch()
    assert backend.open("cpu", 2).accelerator is None
    assert backend.mark() is None
    assert list(backend.limits(quick=True)) == []


# Attention by name


@pytest.mark.parametrize("name", ["flash", "math"])
@pytest.mark.parametrize("kv", ["f32", "bf16"])
def test_an_attention_kernel_is_called_by_its_name(name: str, kv: str) -> None:
    check(f"cpu+{name}", f"attention:context=77,q_heads=6,kv_heads=2,head_dim=32,batch=2,kv={kv}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("efficient", "No available kernel. Aborting execution."),
        ("cudnn", "No available kernel. Aborting execution."),
        ("cudnn", "cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph."),
        ("cudnn", "cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
    ],
)
def test_a_kernel_that_torch_does_not_have_here_is_unsupported(
    name: str, said: str, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = parse("attention:context=9,q_heads=2,kv_heads=1,head_dim=16,kv=f32")
    backend = PyTorch()
    backend.open(f"cpu+{name}", 1)

    def refuse(slot: int) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(backend, "launch", refuse)
    with pytest.raises(Unsupported, match=f"^torch's {name} attention does not take this work$"):
        backend.prepare(work, make_inputs(work, 1))


def test_another_failure_of_a_kernel_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    work = parse("attention:context=9,q_heads=2,kv_heads=1,head_dim=16,kv=f32")
    backend = PyTorch()
    backend.open("cpu+math", 1)
    monkeypatch.setattr(backend, "launch", lambda slot: torch.zeros(2).view(3))
    with pytest.raises(RuntimeError, match="invalid"):
        backend.prepare(work, make_inputs(work, 1))


# Graphs


class FakeGraph:
    """Captures by calling and replays by calling again."""

    made: list[FakeGraph]

    def __init__(self) -> None:
        self.log: list[str] = []
        FakeGraph.made.append(self)

    def capture_begin(self) -> None:
        self.log.append("begin")

    def capture_end(self) -> None:
        self.log.append("end")

    def replay(self) -> None:
        self.log.append("replay")


@pytest.mark.usefixtures("device")
def test_a_graph_is_captured_for_each_input_set(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGraph.made = []
    monkeypatch.setattr(torch_device, "_graph_class", lambda _: FakeGraph)
    monkeypatch.setattr(torch_device, "new_stream", lambda _: FakeStream())
    check("fake:0+graph", "linear:n=16,k=32,weight=f32")
    assert [graph.log for graph in FakeGraph.made] == [
        ["begin", "end", "replay", "replay"],
        ["begin", "end", "replay"],
        ["begin", "end", "replay"],
    ]


def test_a_graph_comes_from_torch_or_from_the_devices_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "Graph", FakeGraph, raising=False)
    assert torch_device._graph_class("x:0") is FakeGraph
    monkeypatch.delattr(torch.accelerator, "Graph")
    module = SimpleNamespace(XGraph=FakeGraph, graph=None)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    assert torch_device._graph_class("x:0") is FakeGraph
    del module.XGraph
    with pytest.raises(Unsupported, match="has no graphs on x"):
        torch_device._graph_class("x:0")


# Offloading


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("weight", "layers"), [("f32", 2), ("f32", 1), ("bf16", 2), ("int8", 2)])
def test_an_offloaded_step_is_right_and_streams_every_part(
    monkeypatch: pytest.MonkeyPatch, weight: str, layers: int
) -> None:
    monkeypatch.setattr(torch_offload, "new_stream", lambda _: FakeStream())
    names = iter(["arrived 0", "arrived 1", "used 0", "used 1"] * 2)
    monkeypatch.setattr(torch_offload, "new_event", lambda _: FakeEvent(next(names)))
    real = torch_offload.OffloadedDecoder
    monkeypatch.setattr(torch_offload, "OffloadedDecoder", lambda d, where: real(d, where, pinned=False))
    monkeypatch.setattr(torch_linear, "has_operator", lambda *_: True)
    limit = 1e-4 if weight == "f32" else 0.05
    kv = "f32" if weight == "f32" else "bf16"
    spec = f"step:model=tiny,context=17,batch=2,weight={weight},kv={kv},layers={layers}"
    backend = check("fake:0+offload", spec, limit=limit)
    FakeEvent.log = []
    backend.launch(0)
    log = [entry for entry in FakeEvent.log if entry != "record event"]
    assert log.count("copy") == layers + 1, "all layers and the head"
    fetch = ["wait used {0}", "copy", "record arrived {0}"]
    start = [entry.format(0) for entry in fetch] + [entry.format(1) for entry in fetch]
    assert log[:6] == start, "the second part is on its way before the first is used"
    assert log[6:8] == ["wait arrived 0", "record used 0"]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("linear:n=8,k=32", "the variant offload streams the layers of a step"),
        ("step:model=tiny,weight=int4g32", "the variant offload streams f32, bf16, f16, int8 weights"),
    ],
)
def test_what_is_not_offloaded_says_so(spec: str, reason: str) -> None:
    backend = PyTorch()
    backend.open("fake:0+offload", 1)
    assert (backend.supports(parse(spec)) or "").startswith(reason)


def test_a_module_is_laid_out_without_overlap() -> None:
    linear = torch_linear.make_linear(
        [random_weight("int8", 5, 48, 1)], np.arange(5, dtype=np.float32), "float", 1
    )
    flat = torch_offload.flatten(linear, pinned=False)
    _, size = torch_offload.lay_out(linear)
    assert size == len(flat) == 3 * torch_offload.ALIGNMENT
    bound = torch_offload.bind(linear, flat)
    for (name, old), (_, new) in zip(linear.named_buffers(), bound.named_buffers(), strict=True):
        assert torch.equal(old, new), name
        assert new.data_ptr() != old.data_ptr()
    flat.zero_()
    assert all(not buffer.any() for buffer in bound.buffers())


# Formats on accelerators


def test_formats_on_an_accelerator_need_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    unsupported = torch_linear.linear_unsupported
    assert unsupported("bf16", "float", [40], "xpu:0") is None
    assert unsupported("int8", "float", [64], "xpu:0") == "this torch has no _weight_int8pack_mm for xpu"
    monkeypatch.setattr(torch_linear, "has_operator", lambda name, device: name == "_weight_int4pack_mm")
    assert unsupported("int4g32", "float", [64], "xpu:0") is None
    assert unsupported("int4g32", "float", [64, 80], "xpu:0") == (
        "torch's int4g32 matmul needs k=80 to be a multiple of 32"
    )
    assert unsupported("int8", "int8", [64], "xpu:0") == (
        "torch's int8 matmuls with int8 activations are used on CPUs only"
    )


def test_operators_are_looked_for_by_device() -> None:
    assert torch_device.has_operator("_weight_int8pack_mm", "cpu")
    assert not torch_device.has_operator("_weight_int4pack_mm", "cpu")


@pytest.mark.parametrize(("n", "k", "group", "tiles"), [(16, 128, 32, 8), (13, 64, 32, 4), (9, 256, 128, 8)])
def test_int4_is_laid_out_as_the_accelerators_operator_takes_it(
    monkeypatch: pytest.MonkeyPatch, n: int, k: int, group: int, tiles: int
) -> None:
    asked: list[int] = []

    def convert(values: torch.Tensor, inner: int) -> torch.Tensor:
        asked.append(inner)
        return values

    def multiply(x: torch.Tensor, packed: torch.Tensor, size: int, pairs: torch.Tensor) -> torch.Tensor:
        q = torch.stack((packed >> 4, packed & 15), -1).flatten(1).float() - 8
        scales, zeros = (pairs[..., i].t().float().repeat_interleave(size, 1) for i in (0, 1))
        return (x.float() @ (q * scales + zeros).t()).bfloat16()

    operators = SimpleNamespace(_convert_weight_to_int4pack=convert, _weight_int4pack_mm=multiply)
    monkeypatch.setattr(torch_linear.torch.ops, "aten", operators)
    weight: Weight = random_weight(f"int4g{group}", n, k, 5)
    linear = torch_linear.Int4TileLinear(
        torch.from_numpy(weight.values), torch.from_numpy(weight.scales), group, None, "cpu"
    )
    x = np.random.default_rng().standard_normal((3, k), np.float32)
    y = linear(torch.from_numpy(x).bfloat16()).float().numpy()
    assert y.shape == (3, n)
    assert asked == [tiles]
    assert relative_error(y, x.astype(np.float64) @ dequantize(weight).astype(np.float64).T) < 0.01
