"""Arrays that processes make for each other, for tests of how they do.

>>> with Making(laid_out(tmp_path / "arrays", 10**8)) as one:
...     assert_like(take(one, "a"), bytes_of("a"))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membound.kernels.weights.array_file import BLOCK, CHUNK, lay_out
from membound.kernels.weights.formats import Array, Layout
from membound.kernels.weights.making import Making

if TYPE_CHECKING:
    from membound.bench.run.sharing import Sharing  # which takes a second to import, as drawing is compiled

SIZE = 11 * CHUNK + BLOCK + 13
"""Neither whole chunks nor whole blocks nor whole words."""
LAYOUT: Layout = (((SIZE,), "u1"),)


def laid_out(path: Path, capacity_bytes: int) -> str:
    """A file that is ready for that many bytes."""
    with path.open("wb") as file:
        lay_out(file.fileno(), capacity_bytes)
    return str(path)


@cache
def bytes_of(name: str) -> Array:
    """Random bytes that follow from a name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    found = np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)
    found.flags.writeable = False
    return found


def refuse() -> Any:
    """Fails where an array is made that others have made before."""
    raise AssertionError("it was there")


def take(one: Making, name: str, make: Callable[[], Any] | None = None) -> Array:
    """An array by its name, whoever makes it."""
    (found,) = one.take(name, LAYOUT, make or (lambda: [bytes_of(name).copy()]), share=True)
    return found


def assert_like(found: Array, expected: Array) -> None:
    """The same numbers in an array of the caller's own."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert found.flags.c_contiguous
    assert found.flags.writeable


def exchange(offered: Sharing) -> None:
    """One process reads what another one wrote."""
    with Making(offered.path) as one, Making(offered.path) as other:
        made = take(one, "a")
        assert_like(take(other, "a", refuse), made)
        assert (one.unshared, other.unshared) == ("", "")


def open_files() -> list[str]:
    """What the descriptors of this process lead to."""
    numbers = [n for n in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{n}")]
    return sorted(os.readlink(f"/proc/self/fd/{number}") for number in numbers)
