"""The works of `membound run` if none are named: for CPUs, for accelerators, short ones; and which of them fit memory.

>>> works, notes = suite("one:cpu", quick=False, memory=24 * 10**9)
>>> works[0].spec
'linear:n=14336,k=4096,m=1,weight=bf16,act=float'
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from membound.bench.measure.cold_memory import COPIES
from membound.errors import MemboundError
from membound.kernels.model import ModelError
from membound.kernels.work import OnnxStep, Prefill, Step, Work, held_bytes, parse
from membound.results.roofline import device_class

_WIDE = "linear:n=14336,k=4096"  # Llama-3-8B's gate and up projections

DEFAULT_WORKS = (
    f"{_WIDE},m=1,weight=bf16",
    f"{_WIDE},m=1,weight=f32",
    f"{_WIDE},m=1,weight=int8,act=int8",
    f"{_WIDE},m=1,weight=int4g32,act=int8",
    f"{_WIDE},m=16,weight=bf16",
    "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=bf16",
    "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=f32",
    "step:model=llama-3.2-1b,context=1024,weight=int8,act=int8,kv=f32",
    "step:model=llama-3.2-1b,context=1024,weight=bf16,kv=bf16",
)
"""The suite of `membound run`: every operation, the formats that matter, two whole steps."""

QUICK_WORKS = (
    f"{_WIDE},m=1,weight=bf16",
    f"{_WIDE},m=1,weight=int8,act=int8",
    "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,kv=bf16",
    "step:model=llama-3.2-1b,context=1024,weight=int8,act=int8,kv=f32,layers=2",
)
"""The suite of `membound run --quick`: does everything work, and roughly how fast."""

_TALL = "linear:n=28672,k=8192"  # Llama-3-70B's gate and up projections: 470 MB in bf16
_CACHE = "attention:q_heads=32,kv_heads=8,head_dim=128,context=8192,batch=16"  # 537 MB in bf16

DEVICE_WORKS = (
    f"{_TALL},m=1,weight=bf16",
    f"{_TALL},m=1,weight=int8",
    f"{_TALL},m=1,weight=int4g128",
    f"{_TALL},m=16,weight=bf16",
    f"{_CACHE},kv=bf16",
    f"{_CACHE},kv=bf16,page=16",
    f"{_CACHE},kv=fp8,page=16",
    "mla:q_heads=16,context=8192,batch=32,kv=bf16,page=64",
    "step:model=llama-3-8b,context=1024,weight=bf16,kv=bf16",
    "prefill:model=llama-3-8b,tokens=2048,weight=bf16,kv=bf16,layers=4",
)
"""The suite for accelerators: works so large that at 3 TB/s the start of a kernel matters little, and a prompt for contrast."""

DEVICE_QUICK_WORKS = (
    f"{_TALL},m=1,weight=bf16",
    f"{_CACHE},kv=bf16",
    "step:model=llama-3-8b,context=1024,weight=bf16,kv=bf16,layers=2",
)

DEVICE_SHARE = 0.6
"""Share of an accelerator's memory that a work of its suite may take."""


class PlanError(MemboundError):
    """A run cannot be done as asked: the message says what is wrong and what would be possible."""


def suite(
    backend: str, quick: bool, memory: int, device_memory: int = 0
) -> tuple[tuple[Work, ...], tuple[str, ...]]:
    """The works for ``backend:device``, cut to fit `memory` bytes and the memory of the device (0 if it has none), and notes.

    Raises PlanError if none fits.
    """
    specs: tuple[str, ...]
    if device_class(backend) == "cpu":
        specs = QUICK_WORKS if quick else DEFAULT_WORKS
    else:
        specs = DEVICE_QUICK_WORKS if quick else DEVICE_WORKS
    room = memory // COPIES
    if device_memory:
        room = min(room, int(DEVICE_SHARE * device_memory))
    works, notes = _fit([parse(spec) for spec in specs], room, min(memory, device_memory or memory))
    return tuple(works), notes


def needed_bytes(work: Work) -> int:
    """The least memory that a work takes: one model, or two input sets, so that they can rotate."""
    return held_bytes(work, 2)


def check_memory(work: Work, memory: int) -> None:
    """Raises PlanError with both figures if a work cannot fit `memory` bytes."""
    needed = needed_bytes(work)
    if needed > memory:
        fewer = "; layers=N runs fewer layers" if isinstance(work, Step | Prefill) else ""
        raise PlanError(
            f"{work.spec} does not fit memory: it needs {_gigabytes(needed)}, "
            f"{_gigabytes(memory)} are available{fewer}"
        )


def check_weights(work: Work, seed: int) -> None:
    """Raises PlanError if the model is a folder whose safetensors are damaged, do not match its config, or hold no numbers.

    Of an ONNX file, which was checked when the work was made, the numbers are left to check.

    Headers, names, shapes and sizes are checked, and every number is read once, so that no worker starts in vain and no
    backend is blamed for what is in the files.
    """
    if isinstance(work, OnnxStep):
        from membound.kernels.onnx_file.count import check_numbers

        try:
            check_numbers(Path(work.file))
        except ModelError as error:
            raise PlanError(str(error)) from None
    if isinstance(work, Step | Prefill) and work.shape.folder:
        from membound.kernels.weights.checkpoint import Checkpoint

        try:
            Checkpoint(work.shape, work.weight, seed).check_numbers()
        except ModelError as error:
            raise PlanError(str(error)) from None


def _fit(works: list[Work], room: int, memory: int) -> tuple[list[Work], tuple[str, ...]]:
    """The suite's works that fit with room for copies, with steps cut to fewer layers, and what was changed."""
    fitting: list[Work] = []
    notes = []
    for work in works:
        fitted = _fit_layers(work, room) if isinstance(work, Step | Prefill) else work
        if fitted is None or needed_bytes(fitted) > room:
            notes.append(f"left out for lack of memory ({_gigabytes(memory)} available): {work.spec}")
            continue
        if fitted != work:
            notes.append(f"fewer layers to fit memory ({_gigabytes(memory)} available): {fitted.spec}")
        fitting.append(fitted)
    if not fitting:
        raise PlanError(f"no work of the suite fits memory: {_gigabytes(memory)} are available")
    return fitting, tuple(notes)


def _fit_layers(work: Step | Prefill, memory: int) -> Step | Prefill | None:
    """The work with as many layers as fit `memory` bytes; None if not even one does."""
    for layers in range(work.shape.layers, 0, -1):
        fewer = work if layers == work.shape.layers else replace(work, layers=layers)
        if needed_bytes(fewer) <= memory:
            return fewer
    return None


def _gigabytes(size: int) -> str:
    """A size for a message: ``12.3 GB (12345678901 bytes)``."""
    return f"{size / 1e9:.1f} GB ({size} bytes)"
