"""The ceilings of an accelerator through torch: its memory, its cache, its matrix units, the link to the host.

>>> from membound.backends.pytorch.device import describe
>>> for limit in limits("npu:0", describe("npu:0"), quick=False):
...     limit.launch(0)                      # the harness times it

Limits are made one at a time: the tensors of one are freed before the next is made. Values are small whole numbers,
never zeros, so that sums are exact and the power drawn is that of data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from membound.backends.api import Accelerator, Limit
from membound.backends.pytorch.device import has_operator

ARRAY_BYTES = 1 << 30
"""The size of each array that is streamed: it takes at least 0.3 ms, so that the start does not matter."""
QUICK_ARRAY_BYTES = 256 << 20
CACHES = 8
"""An array is at least this many second-level caches: what is left there of the launch before serves less than an eighth."""
MEMORY_SHARE = 0.05
"""The part of the device's memory that one array may take."""
CACHE_SHARE = 0.5
"""The part of the cache that a working set takes, so that nothing else evicts it."""
CACHE_PASSES = 64
LINK_BYTES = 256 << 20
GEMM_SIZE = 8192
QUICK_GEMM_SIZE = 4096
CHECKED_ROWS = 8


def limits(device: str, facts: Accelerator, quick: bool) -> Iterator[Limit]:
    """Every limit that this device can be driven to from here."""
    wanted = max(QUICK_ARRAY_BYTES if quick else ARRAY_BYTES, CACHES * facts.cache_bytes)
    size = min(wanted, int(MEMORY_SHARE * facts.memory_bytes) or wanted)
    yield from _memory(device, size)
    if facts.cache_bytes:
        yield _cache(device, int(CACHE_SHARE * facts.cache_bytes))
    yield from _link(device, min(size, LINK_BYTES))
    yield from _gemms(device, QUICK_GEMM_SIZE if quick else GEMM_SIZE)


def _memory(device: str, size: int) -> Iterator[Limit]:
    x, y, z = (_values(size // 4, device) for _ in range(3))
    config = {"array_bytes": x.nbytes}
    total = Result()
    yield Limit(
        "read",
        x.nbytes,
        "bytes/s",
        config | {"variant": "sum", "arrays": 1},
        lambda _: total.keep(x.sum()),
        lambda: _close(total.value, x.sum(dtype=torch.float64)),
    )
    most = Result()
    whole = x.view(torch.int32)
    yield Limit(
        "read",
        x.nbytes,
        "bytes/s",
        config | {"variant": "amax", "arrays": 1},
        lambda _: most.keep(whole.amax()),
        lambda: int(most.value) == int(torch.tensor(4.0).view(torch.int32)),
    )
    yield Limit(
        "copy",
        2 * x.nbytes,
        "bytes/s",
        config | {"variant": "copy_", "arrays": 2},
        lambda _: _ignore(y.copy_(x)),
        lambda: torch.equal(x, y),
    )
    yield Limit(
        "triad",
        3 * x.nbytes,
        "bytes/s",
        config | {"variant": "add", "arrays": 3},
        lambda _: _ignore(torch.add(x, y, alpha=0.5, out=z)),
        lambda: torch.equal(z, x + 0.5 * y),
    )


def _cache(device: str, size: int) -> Limit:
    """Sums of the same small array, repeated without a copy: each pass after the first finds it in the cache."""
    x = _values(size // 4, device)
    again = x.expand(CACHE_PASSES, -1)
    total = Result()
    return Limit(
        "read_l2",
        CACHE_PASSES * x.nbytes,
        "bytes/s",
        {"array_bytes": x.nbytes, "arrays": 1, "repeats": CACHE_PASSES, "variant": "sum"},
        lambda _: total.keep(again.sum()),
        lambda: _close(total.value, CACHE_PASSES * x.sum(dtype=torch.float64)),
    )


def _link(device: str, size: int) -> Iterator[Limit]:
    """Copies between host and device in both directions, with page-locked and with ordinary memory."""
    here = _values(size // 4, device)
    for kind, pinned in (("pinned", True), ("pageable", False)):
        there = torch.empty(here.shape, dtype=here.dtype, pin_memory=pinned and device != "cpu")
        there.copy_(_values(size // 4, "cpu"))
        for name, source, target in (("host_to_device", there, here), ("device_to_host", here, there)):
            yield Limit(
                f"{name}_{kind}",
                source.nbytes,
                "bytes/s",
                {"array_bytes": source.nbytes, "arrays": 1, "variant": f"copy_, {kind}"},
                _copier(source, target, non_blocking=pinned),
                _same(source, target),
            )


def _copier(source: Tensor, target: Tensor, non_blocking: bool) -> Callable[[int], None]:
    return lambda _: _ignore(target.copy_(source, non_blocking=non_blocking))


def _same(source: Tensor, target: Tensor) -> Callable[[], bool]:
    return lambda: torch.equal(source.cpu(), target.cpu())


def _gemms(device: str, size: int) -> Iterator[Limit]:
    """Square products that no work asks for: int8 into int32, and fp8 if the hardware has it."""
    if has_operator("_int_mm", device):
        a, b = (_values(size * size, device).to(torch.int8).view(size, size) for _ in range(2))
        yield _product("gemm_int8", a, b, lambda: torch._int_mm(a, b.t()), "_int_mm")
    if not has_operator("_scaled_mm", device):
        return
    one = torch.ones((), device=device)
    x, w = (_values(size * size, device).to(torch.float8_e4m3fn).view(size, size) for _ in range(2))

    def fp8() -> Tensor:
        return torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    try:
        fp8()
    except RuntimeError:  # no fp8 matrix units: the compute capability is below 8.9
        return
    yield _product("gemm_fp8", x, w, fp8, "_scaled_mm, e4m3")


def products(device: str, quick: bool) -> Iterator[Limit]:
    """Square products in the formats that a backend measures with works of its own, for those who have none."""
    size = QUICK_GEMM_SIZE if quick else GEMM_SIZE
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        x, w = (_values(size * size, device).to(dtype).view(size, size) for _ in range(2))
        yield _product(f"gemm_{name}", x, w, partial(torch.matmul, x, w.t()), "matmul")


def _product(name: str, x: Tensor, w: Tensor, run: Callable[[], Tensor], variant: str) -> Limit:
    """x · wᵀ; its first rows are compared with float64."""
    y = Result()
    expected = x[:CHECKED_ROWS].double() @ w.double().t()
    return Limit(
        name,
        2.0 * len(x) * len(w) * x.shape[1],
        "FLOP/s",
        {"variant": f"{variant}, {len(x)} × {len(w)} × {x.shape[1]}"},
        lambda _: y.keep(run()),
        lambda: _close(y.value[:CHECKED_ROWS].double(), expected),
    )


class Result:
    """The result of the last launch, until it is checked."""

    value: Tensor

    def keep(self, value: Tensor) -> None:
        """Replace it."""
        self.value = value


def _values(count: int, device: str) -> Tensor:
    """Whole numbers from -3 to 4 as float32, in random order."""
    return torch.randint(-3, 5, (count,), device=device, dtype=torch.float32)


def _close(value: Tensor, expected: Tensor) -> bool:
    """Whether the two agree within 1 % in root mean square: float32 sums and bfloat16 products lose less."""
    difference = (value.double() - expected).norm()
    return bool(difference <= 0.01 * expected.norm())


def _ignore(_: Tensor) -> None:
    """A launch gives nothing back."""
