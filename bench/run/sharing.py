"""Memory in which backends that prepare the same work leave inputs for each other; nothing is left of it, whoever dies.

>>> sharing = Sharing(note=print)
>>> sharing.begin(size_bytes=1 << 30, room_bytes=8 << 30)
>>> process.prepare(0, spec, shared=sharing.path)
>>> sharing.end()

It is a file without a name (memfd_create): /dev/shm, which has 64 MB in a container, does not limit it, and the system
takes it back when the last process that has it open has ended, by whatever signal. Where a system has no such memory, it is
a file without a name in the folder for temporary ones. `kernels.weights.array_file` says what is in it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress

from membound.kernels.weights.array_file import FIRST, lay_out
from membound.kernels.weights.formats import layout_bytes, weight_layout
from membound.kernels.weights.making import LEAST_BYTES, SHARED
from membound.kernels.work import LatentAttention, Linear, OnnxStep, Prefill, RoutedExperts, Step, Work

FEWEST = 3
"""From this many backends on sharing pays: by the seconds beside `making.SHARED`, (3 - 1) · (1.0 - 0.65) s of drawing that
is saved are more than the 0.5 s that writing takes. Of a model folder two are enough: quantising takes several times as long."""
ALONE = "each backend makes its inputs itself, which takes longer"
NO_ROOM = f"{ALONE}: memory has no room for shared ones beside the backends"
BLOCK_BYTES = 512
"""Of `st_blocks`."""
DISK_SHARE = 0.5
"""Part of the free space for temporary files that inputs may take: others write there too."""
MFD_NOEXEC_SEAL = 0x0008
"""Of linux/memfd.h since 6.3; where the administrator demands it, memory without it is refused."""


def pays(work: Work, backends: int) -> bool:
    """Whether that many backends which prepare a work are faster if they share its inputs."""
    folder = isinstance(work, Prefill | Step) and bool(work.shape.folder)
    return backends >= (2 if folder else FEWEST)


def shareable_bytes(work: Work, slots: int) -> int:
    """Bytes of a work's inputs, in that many sets, that are cheaper to read than to make."""
    if isinstance(work, OnnxStep):
        return 0
    traffic = work.traffic
    weights, cache = traffic.weights_bytes + traffic.scales_bytes, traffic.kv_read_bytes
    if isinstance(work, Prefill | Step):
        model, drawn = work.shape, work.weight in SHARED
        size = weights if drawn or (model.folder and work.stored is None) else 0
        prompted = isinstance(work, Prefill) or work.cache == "prompt"
        if prompted and drawn and not model.tied:
            size += layout_bytes(weight_layout(work.weight, model.vocab, model.hidden))
        return size + (cache if work.kv in SHARED and not prompted else 0)
    if isinstance(work, RoutedExperts):
        matrix = layout_bytes(weight_layout(work.weight, work.width, work.hidden))
        sets = -(-slots // work.slots_a_set)
        return sets * work.count * work.expert_bytes if work.weight in SHARED and matrix >= LEAST_BYTES else 0
    fmt, one = (work.weight, weights) if isinstance(work, Linear) else (work.kv, cache)
    if isinstance(work, LatentAttention):
        one *= 2  # values of its own are drawn, too, and dropped
    return slots * one if fmt in SHARED and one >= LEAST_BYTES else 0


class Sharing:
    """The memory of one group of backends at a time. `note` is called with what users should know."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._file: int | None = None
        self._size_bytes = 0

    @property
    def path(self) -> str:
        """Where other processes of this user find it; empty while nothing is shared."""
        return "" if self._file is None else f"/proc/{os.getpid()}/fd/{self._file}"

    @property
    def due_bytes(self) -> int:
        """What may still be written."""
        if self._file is None:
            return 0
        return max(0, self._size_bytes - BLOCK_BYTES * os.fstat(self._file).st_blocks)

    def begin(self, size_bytes: int, room_bytes: float) -> None:
        """Offer memory for that many bytes if there is room for them; what is in the way is told, and nothing is shared."""
        self.end()
        if not size_bytes:
            return
        if size_bytes + FIRST > room_bytes:
            self._note(NO_ROOM)
            return
        try:
            self._file, self._size_bytes = self._new(size_bytes + FIRST), size_bytes + FIRST
            lay_out(self._file, size_bytes)
            os.stat(self.path)
        except OSError as error:
            self.end()
            self._note(f"{ALONE}: no memory can be shared ({error.strerror})")

    def give_way(self) -> None:
        """Take the memory back because a backend needs it. Who still reads or writes there makes what is missing."""
        if self._file is not None:
            self.end()
            self._note(NO_ROOM)

    def end(self) -> None:
        """Take the memory back, from processes that have it open, too."""
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)
        self._file = None

    def _new(self, size_bytes: int) -> int:
        """A descriptor of an empty file. Raises OSError."""
        try:
            return _memory()
        except (AttributeError, OSError):  # another system, or one that forbids it
            folder = tempfile.gettempdir()
            if size_bytes > DISK_SHARE * shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, f"{folder} has no room for it") from None
            with tempfile.TemporaryFile() as file:
                found = os.dup(file.fileno())
        self._note(
            f"inputs that backends share go through a file in {folder}: this system has no memory without a name"
        )
        return found


def _memory() -> int:
    """A file in memory without a name. Raises OSError, and AttributeError where the system knows none."""
    try:
        return os.memfd_create("membound", os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("membound", os.MFD_CLOEXEC)
