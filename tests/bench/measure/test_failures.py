"""What becomes of a work that fails: a status and one line, of whatever a backend raises and however a worker ends."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from membound.bench.ceilings.patterns import CeilingError
from membound.bench.measure.failures import LONGEST_REASON, Failure, WrongAnswerError, failure_of, one_line
from membound.bench.protocol.messages import ANSWERS, Failed, decode, encode
from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError, WorkerUnavailableError
from membound.errors import (
    BackendUnavailable,
    FallbackRefused,
    MemboundError,
    ProcessEnded,
    ProcessSilent,
    Unsupported,
)
from membound.kernels.cuda.device.gpu import GpuError
from membound.results.row import STATUSES


class OddError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BackendUnavailable("no device", "pip install one"), "unavailable", "no device; pip install one"),
        (BackendUnavailable("no device"), "unavailable", "no device"),
        (WorkerUnavailableError("python cannot be started"), "unavailable", "python cannot be started"),
        (Unsupported("no int4"), "unsupported", "no int4"),
        (FallbackRefused("CPU instead of CUDA"), "error", "CPU instead of CUDA"),
        (WrongAnswerError("error 0.1 exceeds 0.01", 0.1), "wrong", "error 0.1 exceeds 0.01"),
        (WrongAnswerError("not finite", None), "wrong", "not finite"),
        (WorkerTimeoutError("silent for 300 s"), "timeout", "silent for 300 s"),
        (WorkerDiedError("SIGSEGV: oops"), "crashed", "SIGSEGV: oops"),
        (ProcessEnded("rank 1 of 2 ended: SIGKILL"), "crashed", "rank 1 of 2 ended: SIGKILL"),
        (
            ProcessSilent("rank 1 of 2 gave no answer for 45 s"),
            "timeout",
            "rank 1 of 2 gave no answer for 45 s",
        ),
        (MemoryError(), "oom", "MemoryError"),
        (MemoryError("no room"), "oom", "MemoryError: no room"),
        (CeilingError("a wrong kernel"), "error", "CeilingError: a wrong kernel"),
        (MemboundError("anything else"), "error", "MemboundError: anything else"),
        (RuntimeError("bad graph\nat node 7"), "error", "RuntimeError: bad graph"),
        (OddError(), "error", "OddError"),
        (OddError("  \n \n"), "error", "OddError"),
        (OddError("\n\n  last\n"), "error", "OddError: last"),
        (KeyError("x"), "error", "KeyError: 'x'"),
        (StopIteration(), "error", "StopIteration"),
        (RecursionError("too deep"), "error", "RecursionError: too deep"),
    ],
    ids=repr,
)
def test_every_class_has_its_status_and_one_line(error: BaseException, status: str, reason: str) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.reason) == (status, reason)
    assert failure.status in STATUSES


def test_a_full_disk_is_told_with_what_helps() -> None:
    """By a real one: "No space left on device" alone did not say that it is the kernels' cache that has no room."""
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space") as raised:
        full.write(b"machine code")
    failure = failure_of(raised.value)
    assert failure.status == "error"
    assert failure.reason.startswith(
        "OSError: [Errno 28] No space left on device; what is full is the folder"
    )
    assert failure.reason.endswith("MEMBOUND_CACHE_DIR and TMPDIR name others")
    assert failure_of(OSError(errno.EIO, "x")).reason == "OSError: [Errno 5] x"


def test_only_a_wrong_answer_carries_an_error() -> None:
    size = float(np.random.default_rng().random())
    assert failure_of(WrongAnswerError("far off", size)) == Failure("wrong", "far off", size)
    assert failure_of(WorkerDiedError("SIGSEGV")).error is None


OUT = [
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "XPU out of memory. Tried to allocate 2.00 GiB",
    "NPU out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Failed to launch the graph\nRuntimeError: CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation: out of memory",
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES), ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
    "[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to allocate",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 Failed to allocate memory for requested buffer",
    "CUDA failure 2: out of memory ; GPU=0",
    "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "std::bad_alloc",
    "bad allocation",
]


@pytest.mark.parametrize("text", OUT)
@pytest.mark.parametrize("cls", [RuntimeError, GpuError, OddError])
def test_runtimes_that_say_that_memory_ran_out_are_taken_at_their_word(
    cls: type[Exception], text: str
) -> None:
    failure = failure_of(cls(text))
    assert failure == Failure("oom", f"{cls.__name__}: {text}".partition("\n")[0])


def test_the_systems_own_word_counts_too() -> None:
    assert failure_of(OSError(errno.ENOMEM, "Cannot allocate memory")).status == "oom"


@pytest.mark.parametrize(
    "text",
    ["no kernel image is available", "illegal memory access", "memory is not aligned", "out of range", ""],
)
def test_other_trouble_with_memory_is_an_error(text: str) -> None:
    assert failure_of(RuntimeError(text)).status == "error"


@pytest.mark.parametrize(
    "error",
    [
        Unsupported("needs more than out of memory"),
        FallbackRefused("out of memory"),
        WorkerDiedError("x: out of memory"),
    ],
    ids=repr,
)
def test_what_the_harness_says_itself_is_not_read_again(error: Exception) -> None:
    assert failure_of(error).status != "oom"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise OddError("no text")


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class UnprintableUnsupported(Unsupported):
    def __str__(self) -> str:
        raise OddError("no text")


def test_what_cannot_be_printed_is_a_failure_still() -> None:
    assert failure_of(Unprintable()) == Failure("error", "Unprintable: it cannot be printed")
    assert failure_of(NoText()) == Failure("error", "NoText: it cannot be printed")
    assert failure_of(UnprintableUnsupported()) == Failure("unsupported", "it cannot be printed")
    assert failure_of(BackendUnavailable(Unprintable())).reason == "it cannot be printed"  # type: ignore[arg-type]


LONG = "x" * 50_000_000


@pytest.mark.parametrize(
    "cls", [RuntimeError, Unsupported, FallbackRefused, BackendUnavailable, WorkerDiedError]
)
@pytest.mark.parametrize(
    "text", [LONG, "two\nlines", "a file \udcff", "a\r\nb", 5, None], ids=lambda t: repr(t)[:20]
)
def test_a_reason_is_a_short_line_that_any_file_can_hold(cls: type[Exception], text: object) -> None:
    failure = failure_of(cls(text))
    assert failure.reason
    assert len(failure.reason) <= LONGEST_REASON
    assert not set("\r\n") & set(failure.reason)
    failure.reason.encode()
    failed = Failed(failure.status, failure.reason, failure.error)
    assert decode(encode(failed, 1), ANSWERS) == (failed, 1)


def test_a_name_that_is_no_utf8_is_shown_by_its_bytes() -> None:
    name = b"a\xff".decode(errors="surrogateescape")
    assert one_line(OSError(f"no file {name}")) == "OSError: no file a\\udcff"
