"""GGUF files that are nearly right: what stands behind a name in their header is changed, or any of their bytes.

>>> other_gguf(Random(1), seeds.gguf_models()[0])[:4]
b'GGUF'
"""

from __future__ import annotations

import re
from random import Random

from mutation import damaged

NAME = re.compile(rb"[a-z0-9_]+(?:\.[a-z0-9_]+)+")
"""Of a field or a tensor."""
NUMBERS = (
    *(0, 1, 2, 3, 4, 6, 8, 9, 10, 12, 14, 30, 32, 64, 127, 256, 4097),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 60, (1 << 63) - 1, (1 << 64) - 1),
)
REALS = (
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\x7f",
    b"\x00\x00\x80\xff",
    b"\x01\x00\x00\x00",
    b"\xff\xff\x7f\x7f",
)
"""float32: NaN, the two infinities, the smallest, the largest."""
COUNTS = 8
"""Where the header's counts of tensors and fields begin."""


def other_gguf(rng: Random, content: bytes) -> bytes:
    """A file with one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice((_behind_a_name, _behind_a_name, _behind_a_name, _name, _count, damaged))(
            rng, content
        )
    return content


def _names(content: bytes) -> list[re.Match[bytes]]:
    """All names but those among the numbers of tensors, where few bytes look like one."""
    return list(NAME.finditer(content))


def _written(rng: Random, content: bytes, at: int) -> bytes:
    """Another number at a place: of four bytes or of eight."""
    size = rng.choice((4, 4, 8))
    new = (rng.choice(NUMBERS) % (1 << (8 * size))).to_bytes(size, "little")
    if size == 4 and not rng.randrange(4):
        new = rng.choice(REALS)
    return content[:at] + new + content[at + size :]


def _behind_a_name(rng: Random, content: bytes) -> bytes:
    """Another type, value, number of dimensions, size or place."""
    names = _names(content)
    return _written(rng, content, rng.choice(names).end() + 4 * rng.randrange(8)) if names else content


def _name(rng: Random, content: bytes) -> bytes:
    """Another name with the length that goes with it, or with the old one."""
    names = _names(content)
    if not names:
        return content
    one, new = rng.choice(names), rng.choice(names)[0]
    length = rng.choice((len(new), len(one[0]))).to_bytes(8, "little")
    return content[: max(0, one.start() - 8)] + length + new + content[one.end() :]


def _count(rng: Random, content: bytes) -> bytes:
    return _written(rng, content, COUNTS + 8 * rng.randrange(2))
