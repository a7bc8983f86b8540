"""What became of a work that could not be measured: exceptions and dead workers as a row's status and reason.

>>> failure_of(BackendUnavailable("no device", "pip install one"))
Failure(status='unavailable', reason='no device; pip install one', error=None)
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError, WorkerUnavailableError
from membound.errors import BackendUnavailable, FallbackRefused, Unsupported

LONGEST_REASON = 500


class WrongAnswerError(Exception):
    """An output misses the reference. Carries the error (None: not finite or of another shape)."""

    def __init__(self, reason: str, error: float | None) -> None:
        super().__init__(reason)
        self.error = error


@dataclass(frozen=True, slots=True)
class Failure:
    """A status of `results.row.STATUSES`, why, and the error of a wrong output that is a number."""

    status: str
    reason: str
    error: float | None = None


def failure_of(error: BaseException) -> Failure:
    """What an exception of a backend, or the end of a worker, makes of the work at hand."""
    if isinstance(error, BackendUnavailable):
        return Failure("unavailable", f"{error.reason}; {error.remedy}".removesuffix("; "))
    if isinstance(error, WorkerUnavailableError):
        return Failure("unavailable", str(error))
    if isinstance(error, Unsupported):
        return Failure("unsupported", str(error))
    if isinstance(error, WrongAnswerError):
        return Failure("wrong", str(error), error.error)
    if isinstance(error, WorkerTimeoutError):
        return Failure("timeout", str(error))
    if isinstance(error, WorkerDiedError):
        return Failure("crashed", str(error))
    if isinstance(error, MemoryError):
        return Failure("oom", one_line(error))
    if isinstance(error, FallbackRefused):
        return Failure("error", str(error))
    return Failure("error", one_line(error))


def one_line(error: BaseException) -> str:
    """The class and the first line of an exception: a row's reason."""
    try:
        text = str(error).strip().split("\n")[0]
    except Exception:  # the boundary around a runtime: an exception that cannot be printed is still one
        text = "it cannot be printed"
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON] if text else type(error).__name__
