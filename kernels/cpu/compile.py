"""How kernels are compiled: cached on disk, keyed by their sources, with the threading layer asserted.

>>> @kernel(parallel=True)
... def scale(x, factor): ...

Numba does not notice when a helper in another module changes, and would serve the old machine code.
The cache folder therefore carries a hash of every file of the kernels package that CPU kernels may import
(all but those of the GPUs) and of Numba's version.
Numba names each function it compiles by a number counted from 1 in every process. Two variants of one
function from a cached file and from this process then often have the same name, and the linker takes the one
that it saw first: wrong numbers, or a crash. `_number_apart` begins to count elsewhere in each process.
Numba gives a new entry of the cache the next free number without a lock, so that of two processes which compile
variants of one kernel at once each may find the other's machine code under its own name. `CacheFile` takes turns.
Kernels that come in variants are made by factory functions (`functools.cache`), so that a variant that
is not used costs nothing; a factory's free variables must be numbers or strings, which hash alike in
every process. Functions that only kernels call are `linked` (linked.py), which saves most of their machine code.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numba
import numpy as np
import numpy.typing as npt
from numba.core import config, event
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import IndexDataCacheFile

from membound.kernels.cpu.kernel_cache import cache_folder
from membound.kernels.cpu.linked import KernelCompiler
from membound.kernels.cpu.watching import begun, done

config.DISABLE_JIT = 0
"""NUMBA_DISABLE_JIT, which workers unset, would make kernels plain functions, which their LLVM IR cannot be part of."""
NAMES_APART = 1 << 20
"""Functions that a process may compile before its names reach those of another."""


def _number_apart() -> None:
    FunctionIdentity._unique_ids = itertools.count((1 + secrets.randbits(40)) * NAMES_APART)


_number_apart()
DIGEST_BYTES = 32
PACKAGE = "membound.kernels"


class CacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index of one function's compiled variants and their files, written by one process at a time.

    Each file ends with the SHA-256 of the rest: a damaged one could crash every process that loads it, or compute
    wrong numbers. It counts as not there, so that the kernel is compiled again.
    """

    def save(self, key: Any, data: Any) -> None:
        """Store an entry, as the base class does."""
        with self._turn(fcntl.LOCK_EX):
            super().save(key, data)

    def load(self, key: Any) -> Any:
        """An entry, or None."""
        with self._turn(fcntl.LOCK_SH):
            return super().load(key)

    @contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        try:
            lock = (Path(self._cache_path) / "lock").open("ab")
        except OSError:  # nobody writes into a folder that we may not write into
            yield
            return
        with lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, kind)
            yield

    def _load_index(self) -> Any:
        return super()._load_index() if _is_whole(self._index_path) else {}

    def _load_data(self, name: str) -> Any:
        if not _is_whole(self._data_path(name)):
            raise FileNotFoundError(name)  # which counts as not there
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[BinaryIO]:
        with super()._open_for_write(filepath) as file:
            content = BytesIO()
            yield content
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


def _is_whole(path: str) -> bool:
    """Whether a file is there and its last bytes are the SHA-256 of the rest; pickle does not mind them."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with the disk cache in `cache_folder()`. Options are Numba's (parallel, fastmath, …)."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(pipeline_class=KernelCompiler, **options)(function)
        before = config.CACHE_DIR
        config.CACHE_DIR = str(cache_folder())  # Numba reads it when caching is enabled, not when used
        try:
            dispatcher.enable_caching()
            _place(dispatcher._cache, function.__module__)
        finally:
            config.CACHE_DIR = before
        return dispatcher

    return decorate


def _place(cache: Any, module: str) -> None:
    """Have a function's cache take turns, and lie where the module's name says.

    Numba goes by where the module's file lies and when it was written. Of ours, whose sources the folder's name is a hash
    of, neither matters: another checkout, an installation and another machine find what was compiled.
    """
    if not module.startswith(f"{PACKAGE}."):
        cache._cache_file.__class__ = CacheFile
        return
    place = str(cache_folder() / module)
    cache._cache_path = cache._impl.locator._cache_path = place
    cache._cache_file = CacheFile(place, cache._impl.filename_base, source_stamp="")


class ThreadingError(RuntimeError):
    """Numba's threads are too slow to start, or fewer than were asked for. Carries the command that would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def set_threads(threads: int) -> None:
    """Use that many threads. Raises ThreadingError unless the layer is OpenMP or TBB, and there are that many.

    workqueue needs about 100 µs to start a parallel region, OpenMP 2–3 µs; Numba falls back to it in
    silence where no OpenMP runtime is found. OpenMP gives fewer threads than asked for, in silence too, where
    OMP_THREAD_LIMIT or OMP_DYNAMIC say so: they are counted, each by its number in a loop that all of them share.
    """
    most = numba.config.NUMBA_NUM_THREADS
    if threads > most:
        raise ThreadingError(
            f"Numba was started for {most} threads, not {threads}", "unset NUMBA_NUM_THREADS"
        )
    numba.set_num_threads(threads)
    counted = len(set(_thread_numbers(np.zeros(threads, np.int64)).tolist()))
    layer = numba.threading_layer()
    if layer == "workqueue":
        raise ThreadingError(
            "Numba found no OpenMP runtime and fell back to its workqueue layer, which halves the speed of "
            "short kernels; install libgomp1 (or the tbb package) or set NUMBA_THREADING_LAYER=omp",
            "apt-get install libgomp1",
        )
    if (
        layer == "omp" and counted < threads
    ):  # TBB gives each task to whoever is free, one thread perhaps to all
        raise ThreadingError(
            f"OpenMP gives Numba {counted} of {threads} threads here",
            "unset OMP_THREAD_LIMIT OMP_DYNAMIC   # and look at `ulimit -u`",
        )


@kernel(parallel=True)
def _thread_numbers(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    for i in numba.prange(numbers.size):
        numbers[i] = numba.get_thread_id()
    return numbers


class _Teller(event.Listener):  # type: ignore[misc]
    """Tells all who watch which function is being compiled, and when that is done."""

    def __init__(self) -> None:
        self._depth = 0

    def on_start(self, happened: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            begun(happened.data["dispatcher"].py_func.__name__)

    def on_end(self, happened: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            done()


event.register("numba:compile", _Teller())
