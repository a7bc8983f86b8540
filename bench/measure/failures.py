"""What became of a work that could not be measured: exceptions and dead workers as a row's status and reason.

>>> failure_of(BackendUnavailable("no device", "pip install one"))
Failure(status='unavailable', reason='no device; pip install one', error=None)
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from membound.bench.machine.secrets import without_passwords
from membound.bench.protocol.process import (
    KILLED,
    WorkerDiedError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)
from membound.errors import (
    BackendUnavailable,
    FallbackRefused,
    ProcessEnded,
    ProcessSilent,
    Unsupported,
)

LONGEST_REASON = 500
SEARCHED = 20_000
"""Characters of a message that are looked at for what it means: some hold a whole graph."""
OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _](?:\w+[ _])?memory"  # CUDA, HIP, XPU, NPU; CUDA_ERROR_OUT_OF_MEMORY, …_OUT_OF_DEVICE_MEMORY
    r"|(?:can't|cannot|could not|failed to) allocate (?:\w+ )?memory"  # PyTorch on the CPU, ENOMEM, ONNX Runtime
    r"|not enough (?:\w+ )?memory|alloc_failed|bad[ _]alloc",  # cuBLAS and its like, C++
    re.IGNORECASE,
)
"""How runtimes say that memory ran out, in classes of their own: most raise a RuntimeError."""
FULL = (errno.ENOSPC, errno.EDQUOT)
WHERE_FULL = (
    "; what is full is the folder for compiled kernels or the one for temporary files: "
    "MEMBOUND_CACHE_DIR and TMPDIR name others"
)
"""What a backend writes to; the error itself seldom says where."""


class WrongAnswerError(Exception):
    """An output misses the reference. Carries the error (None: not finite or of another shape)."""

    def __init__(self, reason: str, error: float | None) -> None:
        super().__init__(reason)
        self.error = error


class FigureError(Exception):
    """A backend says of itself what cannot be. The text names the figure."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A status of `results.row.STATUSES`, why, and the error of a wrong output that is a number."""

    status: str
    reason: str
    error: float | None = None


SAID_BY_US: tuple[tuple[type[Exception], str], ...] = (
    (WorkerUnavailableError, "unavailable"),
    (Unsupported, "unsupported"),
    (WorkerTimeoutError, "timeout"),
    (WorkerDiedError, "crashed"),
    (ProcessSilent, "timeout"),
    (ProcessEnded, "crashed"),
    (FallbackRefused, "error"),
    (FigureError, "error"),
)
"""Classes whose text is a reason as it stands."""


def failure_of(error: BaseException) -> Failure:
    """What an exception of a backend, or the end of a worker, makes of the work at hand."""
    if isinstance(error, BackendUnavailable):
        told = f"{said(error.reason)}; {said(error.remedy)}".removesuffix("; ")
        return Failure("unavailable", told[:LONGEST_REASON])
    if isinstance(error, WrongAnswerError):
        return Failure("wrong", said(error), error.error)
    for cls, status in SAID_BY_US:
        if isinstance(error, cls):
            return Failure(status, said(error))
    memory = isinstance(error, MemoryError) or OUT_OF_MEMORY.search(_text(error)[:SEARCHED])
    full = isinstance(error, OSError) and error.errno in FULL
    return Failure("oom" if memory else "error", (one_line(error) + WHERE_FULL * full)[:LONGEST_REASON])


def lacked_memory(failure: Failure) -> bool:
    """Whether memory ran out, as far as anybody knows."""
    return failure.status == "oom" or KILLED in failure.reason


def one_line(error: BaseException) -> str:
    """The class and the first line of an exception: a row's reason."""
    text = said(error)
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON] if text else type(error).__name__


def said(value: object) -> str:
    """The first line of its text, short, as any file can hold it: names of files need not be UTF-8."""
    lines = _text(value).strip().splitlines() or [""]
    told = without_passwords(lines[0].strip()[:SEARCHED])[:LONGEST_REASON]
    return told.encode(errors="backslashreplace").decode()[:LONGEST_REASON]


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # the boundary around a runtime: an exception that cannot be printed is still one
        return "it cannot be printed"
